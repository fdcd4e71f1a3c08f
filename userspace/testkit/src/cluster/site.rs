//! Owns the asynchronous side of a cluster: one runtime whose threads live in the router's
//! namespace, where the API server listens and the kubelets work, and a way in from outside.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::netns::Netns;

/// Threads for the API server and all kubelets.
const THREADS: usize = 2;
/// How long tasks may take to end.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// A runtime in a namespace. Dropping it ends its tasks.
#[derive(Debug)]
pub struct Site {
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    /// Starts the runtime in `netns`.
    ///
    /// # Errors
    /// When the namespace can't be entered or threads can't be made.
    pub fn start(netns: &Netns) -> Result<Self> {
        let (end, ended) = oneshot::channel();
        let (reply, answer) = mpsc::channel();
        let netns = netns.clone();
        let thread = thread::Builder::new().name("site".to_owned()).spawn(move || {
            let built = netns.enter().and_then(|()| {
                // Threads inherit the namespace of the one that starts them.
                let runtime = Builder::new_multi_thread()
                    .worker_threads(THREADS)
                    .thread_name("site")
                    .enable_all()
                    .build();
                runtime.context("start a runtime")
            });
            match built {
                Ok(runtime) => {
                    let _ = reply.send(Ok(runtime.handle().clone()));
                    let _ = runtime.block_on(ended);
                    runtime.shutdown_timeout(SHUTDOWN);
                }
                Err(e) => drop(reply.send(Err(e))),
            }
        })?;
        let handle = answer.recv().context("site has ended")??;
        Ok(Self { handle, end: Some(end), thread: Some(thread) })
    }

    /// Runs `work` in the site and waits for it; works in asynchronous code, too, but blocks it.
    ///
    /// # Errors
    /// When `work` panics.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = mpsc::channel();
        self.handle.spawn(async move {
            let _ = reply.send(work.await);
        });
        answer.recv().map_err(|_| anyhow!("work in the site has ended early"))
    }

    /// Starts `work` in the site; it ends with the site.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }

    /// Opens a port on the caller's own loopback that leads to `target` in the site. Nothing on the
    /// caller's network changes: a socket stays in the namespace it was made in.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn forward(&self, target: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port on loopback")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        self.spawn(async move {
            let listener = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(e) => return tracing::error!("way to {target}: {e}"),
            };
            while let Ok((outside, _)) = listener.accept().await {
                tokio::spawn(join(outside, target));
            }
        });
        Ok(address)
    }
}

async fn join(mut outside: TcpStream, target: SocketAddr) {
    match TcpStream::connect(target).await {
        // Either end may leave as it likes.
        Ok(mut inside) => drop(tokio::io::copy_bidirectional(&mut outside, &mut inside).await),
        Err(e) => tracing::debug!("connect to {target}: {e}"),
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
