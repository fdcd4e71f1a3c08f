//! Transactions over TCP as netperf does them: TCP_RR, a byte there and a byte back on one
//! connection, and TCP_CRR, a new connection for each such pair. Client and server are processes of
//! their own, so that switching between them costs what it costs.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// One attempt to reach the server while it is not known to be reachable.
const ATTEMPT: Duration = Duration::from_millis(300);
/// How long the server may take to become reachable.
const PATIENCE: Duration = Duration::from_secs(60);
/// Transactions between two looks at the clock: it costs as much as a part of one.
const RR_BATCH: u32 = 32;
const CRR_BATCH: u32 = 8;

/// Flags of `sluice-bench serve`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Serve {
    /// TCP port
    #[arg(long)]
    port: u16,
}

/// Flags of `sluice-bench drive`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Drive {
    /// The server
    #[arg(long)]
    to: SocketAddr,
    /// Milliseconds before counting begins, for each kind of transaction
    #[arg(long, default_value_t = 200)]
    warm_up_ms: u64,
    /// Milliseconds of counting, for each kind of transaction
    #[arg(long, default_value_t = 1000)]
    measure_ms: u64,
}

/// Transactions per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rates {
    /// On one connection.
    pub(crate) rr_per_s: f64,
    /// Each on a connection of its own.
    pub(crate) crr_per_s: f64,
}

/// Serves one connection after the other until the process is ended. Prints `ready` when it
/// listens.
pub(crate) fn serve(config: &Serve) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, config.port))
        .with_context(|| format!("listening on port {}", config.port))?;
    println!("ready");
    for stream in listener.incoming() {
        // A client that goes away in the middle is the client's affair.
        let _ = answer(&stream?);
    }
    Ok(())
}

fn answer(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0_u8; 1];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

/// Waits until the server can be reached, then counts.
///
/// # Errors
/// When it can't be reached in time, or a transaction fails: a rate with failures is none.
pub(crate) fn drive(config: &Drive) -> Result<Rates> {
    reach(config.to)?;
    let warm_up = Duration::from_millis(config.warm_up_ms);
    let measure = Duration::from_millis(config.measure_ms);

    let stream = connect(config.to)?;
    let mut rr = || exchange(&stream).context("a transaction on an open connection");
    rate(warm_up, RR_BATCH, &mut rr)?;
    let rr_per_s = rate(measure, RR_BATCH, &mut rr)?;
    drop(stream);

    let mut crr = || {
        let stream = connect(config.to)?;
        exchange(&stream).context("a transaction on a connection of its own")
    };
    rate(warm_up, CRR_BATCH, &mut crr)?;
    let crr_per_s = rate(measure, CRR_BATCH, &mut crr)?;
    Ok(Rates { rr_per_s, crr_per_s })
}

fn reach(to: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect_timeout(&to, ATTEMPT) {
            Ok(stream) => return exchange(&stream).context("the first transaction"),
            Err(error) if Instant::now() > deadline => {
                bail!("{to} can't be reached within {PATIENCE:?}: {error}")
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            Err(_) => sleep(Duration::from_millis(20)),
        }
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn exchange(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut byte = [1_u8; 1];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)
}

/// Repeats `work` for at least `duration`; how often per second.
fn rate(duration: Duration, batch: u32, work: &mut impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut done = 0_u64;
    loop {
        for _ in 0..batch {
            work()?;
        }
        done += u64::from(batch);
        let elapsed = start.elapsed();
        if elapsed >= duration {
            return Ok(done as f64 / elapsed.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn client(to: SocketAddr) -> Drive {
        Drive { to, warm_up_ms: 1, measure_ms: 50 }
    }

    #[test]
    fn both_rates_are_counted_against_a_real_server() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                answer(&stream.unwrap()).unwrap();
            }
        });
        let rates = drive(&client(to)).unwrap();
        assert!(rates.rr_per_s > 100.0 && rates.crr_per_s > 20.0, "{rates:?}");
    }

    #[test]
    fn a_server_that_hangs_up_is_an_error_not_a_rate() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        thread::spawn(move || listener.incoming().for_each(drop));
        assert!(drive(&client(to)).is_err());
    }

    #[test]
    fn a_rate_is_work_over_time() {
        let mut work = || {
            sleep(Duration::from_millis(5));
            Ok(())
        };
        let rate = rate(Duration::from_millis(50), 2, &mut work).unwrap();
        assert!(rate > 10.0 && rate <= 200.0, "{rate}");
    }
}
