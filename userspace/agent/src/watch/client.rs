//! Builds the HTTP client for the API server: addresses, credentials, and TCP that notices a
//! dead peer (K8).

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::counted::{Count, Requests};
use super::warned::Warnings;
use tower::{BoxError, ServiceBuilder};

/// How long a connection may be idle before TCP asks whether the peer still lives.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Time between those questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered questions until the connection counts as dead: 30 s in all, K8's 30 s + 15 s bound
/// without needing HTTP/2.
const KEEPALIVE_RETRIES: u32 = 3;
/// Bytes that stay unacknowledged this long kill the connection (TCP_USER_TIMEOUT, RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Where a pod's credentials are mounted. What is missing there is an error, not a pod without credentials.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Limit for the three-way handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the API server is and who we are there.
#[derive(Clone, Debug, Default)]
pub struct ApiAccess {
    /// A kubeconfig file; without one the service account of the pod is used.
    pub kubeconfig: Option<PathBuf>,
    /// URL that replaces the server of the kubeconfig or of the pod's environment.
    pub master: Option<String>,
    /// Counts the requests of all clients made here.
    pub requests: Requests,
    /// What the server has warned of.
    pub warnings: Warnings,
}

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be read or used.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// Not in a pod, and no kubeconfig given.
    #[error("no --kubeconfig, and the credentials of a pod cannot be used: {0}")]
    InCluster(#[from] kube::config::InClusterError),
    /// `--master` is not a URL.
    #[error("--master {url}: {reason}")]
    Master {
        /// The value.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The kubeconfig's cluster is behind a proxy.
    #[error(
        "kubeconfig {path}: proxy-url {url}: proxies are not supported, the API server must be reachable from the node"
    )]
    Proxy {
        /// The file.
        path: PathBuf,
        /// The proxy.
        url: String,
    },
    /// Credentials or certificates cannot be used.
    #[error("API client: {0}")]
    Client(#[source] Box<kube::Error>),
}

impl ApiAccess {
    /// Reads the configuration and builds a client from it. Called again after a 401 and after
    /// repeated failures to connect, so that rotated credentials and addresses are found (K10).
    ///
    /// # Errors
    /// When the files cannot be read or hold nothing that can be used.
    pub async fn connect(&self) -> Result<Client, ClientError> {
        let mut config = self.read().await?;
        if let Some(master) = &self.master {
            config.cluster_url = parse_url(master)?;
        }
        build(config, self).map_err(|error| ClientError::Client(Box::new(error)))
    }

    async fn read(&self) -> Result<Config, ClientError> {
        match (&self.kubeconfig, &self.master) {
            (Some(path), _) => {
                let fault = |source| ClientError::Kubeconfig { path: path.clone(), source };
                let file = Kubeconfig::read_from(path).map_err(fault)?;
                if let Some(url) = proxy(&file) {
                    return Err(ClientError::Proxy { path: path.clone(), url: url.to_owned() });
                }
                let config =
                    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
                Ok(direct(config.map_err(fault)?))
            }
            // The pod's environment may not know the server that `--master` does.
            (None, Some(_)) if Path::new(SERVICE_ACCOUNT).is_dir() => Ok(Config::incluster_dns()?),
            // `--master` alone is a server that asks for no credentials, as in kube-router.
            (None, Some(master)) => Ok(Config::new(parse_url(master)?)),
            (None, None) => Ok(Config::incluster()?),
        }
    }
}

/// The proxy that a kubeconfig names for its current context.
fn proxy(file: &Kubeconfig) -> Option<&str> {
    let name = file.current_context.as_ref()?;
    let context = file.contexts.iter().find(|context| context.name == *name)?.context.as_ref()?;
    let cluster = file.clusters.iter().find(|cluster| cluster.name == context.cluster)?;
    cluster.cluster.as_ref()?.proxy_url.as_deref().filter(|url| !url.is_empty())
}

/// Without the environment's HTTPS_PROXY, which kube takes over and NO_PROXY does not undo: on a node
/// it is there for the pulling of images.
fn direct(mut config: Config) -> Config {
    config.proxy_url = None;
    config
}

fn parse_url(text: &str) -> Result<axum::http::Uri, ClientError> {
    let fault = |reason: String| ClientError::Master { url: text.to_owned(), reason };
    let uri: axum::http::Uri = text.parse().map_err(|error| fault(format!("{error}")))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        _ => Err(fault("not an http:// or https:// URL".to_owned())),
    }
}

fn build(config: Config, access: &ApiAccess) -> kube::Result<Client> {
    let host = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
    let count = Count { requests: access.requests.clone(), host };
    let warnings = access.warnings.clone();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE_IDLE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let https = config.rustls_https_connector_with_connector(tcp)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(https);
    let service = ServiceBuilder::new()
        .layer(count)
        .map_response(move |answer| warnings.tell(answer))
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn master_must_be_a_url() {
        let access = ApiAccess { master: Some("10.0.0.1:6443".to_owned()), ..ApiAccess::default() };
        let error = access.connect().await.err().expect("refused").to_string();
        assert!(error.contains("--master 10.0.0.1:6443"), "{error}");
    }

    #[tokio::test]
    async fn missing_kubeconfig_names_the_file() {
        let access =
            ApiAccess { kubeconfig: Some("/nonexistent/config".into()), ..ApiAccess::default() };
        let error = access.connect().await.err().expect("refused").to_string();
        assert!(error.contains("/nonexistent/config"), "{error}");
    }

    /// Whether the thread has a /run of its own, which needs root.
    fn own_run() -> bool {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        const NONE: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS).is_ok()
            && mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).is_ok()
            && mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), NONE).is_ok()
    }

    #[test]
    fn k10_a_pod_without_all_of_its_credentials_is_not_anonymous() {
        let done = std::thread::spawn(|| {
            if !own_run() {
                println!("SKIP: a mount namespace needs root");
                return;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            let master = Some("https://192.0.2.1:6443".to_owned());
            let access = ApiAccess { master, ..ApiAccess::default() };
            let connect = || runtime.block_on(access.connect()).map(drop);
            assert!(connect().is_ok(), "not in a pod");
            std::fs::create_dir_all(SERVICE_ACCOUNT).expect("a folder");
            let put = |name: &str, text: &str| {
                std::fs::write(Path::new(SERVICE_ACCOUNT).join(name), text).expect("written");
            };
            put("token", "secret");
            put("namespace", "kube-system");
            let error = connect().expect_err("no ca.crt").to_string();
            assert!(error.contains("certificate"), "{error}");
            put("ca.crt", CA);
            assert!(connect().is_ok(), "all there");
        });
        done.join().expect("no panic");
    }

    /// A certificate of nobody's.
    const CA: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBeTCCAR+gAwIBAgIUKlWshaS2sQlXn2cihZyl//1OIiMwCgYIKoZIzj0EAwIw\n\
        ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyOTAyNDAxN1oYDzIxMjYxMTA1MDI0\n\
        MDE3WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
        AASLB+5urFhL3X0xFrKAMHYesE8TJ70S3bCvIIOsmdFqUA8oTF5UGX2sSNEUPXeP\n\
        MwCtkmW2MIfLOtWCo9dirmZQo1MwUTAdBgNVHQ4EFgQUglyxYfRUZLl/Ro8OGk2h\n\
        DGMjySkwHwYDVR0jBBgwFoAUglyxYfRUZLl/Ro8OGk2hDGMjySkwDwYDVR0TAQH/\n\
        BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAuZCDyYyWnHWLD670Em6y00MH/jMA\n\
        fzXBfkVBEI4Ex2cCIHJDxUI134TbUtEn3hDHmM7l22XVLNNv9yHUtFqVCGlr\n\
        -----END CERTIFICATE-----";

    /// Two clusters, one of them behind a proxy; `current` is the context.
    fn kubeconfig(current: &str) -> String {
        format!(
            "current-context: {current}\n\
             contexts:\n\
             - {{name: near, context: {{cluster: near}}}}\n\
             - {{name: far, context: {{cluster: far}}}}\n\
             clusters:\n\
             - {{name: near, cluster: {{server: 'http://192.0.2.1:8080', proxy-url: ''}}}}\n\
             - {{name: far, cluster: {{server: 'http://192.0.2.1:8080', \
                proxy-url: 'http://192.0.2.9:3128'}}}}\n"
        )
    }

    fn parsed(current: &str) -> Kubeconfig {
        Kubeconfig::from_yaml(&kubeconfig(current)).expect("a kubeconfig")
    }

    #[tokio::test]
    async fn a_proxy_of_the_kubeconfig_is_refused_by_name_and_others_do_not_count() {
        assert_eq!(proxy(&parsed("near")), None);
        assert_eq!(proxy(&parsed("far")), Some("http://192.0.2.9:3128"));

        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("config");
        std::fs::write(&path, kubeconfig("far")).expect("written");
        let access = ApiAccess { kubeconfig: Some(path), ..ApiAccess::default() };
        let error = access.connect().await.err().expect("refused").to_string();
        assert!(error.contains("proxy-url http://192.0.2.9:3128"), "{error}");
    }

    #[tokio::test]
    async fn a_proxy_of_the_environment_is_not_used() {
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(parsed("far"), &options).await;
        // What kube makes of the environment is in the same place.
        let config = config.expect("a configuration");
        assert!(config.proxy_url.is_some());
        assert_eq!(direct(config).proxy_url, None);
    }
}
