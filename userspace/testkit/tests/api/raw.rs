//! HTTP/1.1 by hand, so that tests see chunks, lines and the way a stream ends.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use sluice_testkit::api::{Options, Server};

/// A server whose slow parts are quick.
pub(crate) fn server() -> Server {
    Server::start(quick()).expect("start")
}

/// The same without controllers: nothing changes but by the test.
pub(crate) fn still_server() -> Server {
    Server::start(Options { controllers: false, ..quick() }).expect("start")
}

/// Options with short times.
pub(crate) fn quick() -> Options {
    Options {
        bookmark_interval: Duration::from_millis(100),
        progress_interval: Duration::from_millis(50),
        future_wait: Duration::from_millis(200),
        garbage_delay: Duration::from_millis(300),
        ..Options::default()
    }
}

/// A whole answer.
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) text: String,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// The first cause of a Status.
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

fn send(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(server.address()).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    let text = body.map(Value::to_string).unwrap_or_default();
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", text.len());
    if body.is_some() && !headers.iter().any(|(n, _)| *n == "content-type") {
        head.push_str("content-type: application/json\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n{text}").as_bytes()).expect("send");
    BufReader::new(stream)
}

fn line(reader: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut text = String::new();
    if reader.read_line(&mut text)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(text.trim_end().to_owned())
}

fn head(reader: &mut BufReader<TcpStream>) -> std::io::Result<(u16, Vec<(String, String)>)> {
    let status = line(reader)?;
    let code = status.split(' ').nth(1).and_then(|c| c.parse().ok()).unwrap_or(0);
    let mut headers = Vec::new();
    loop {
        let text = line(reader)?;
        if text.is_empty() {
            return Ok((code, headers));
        }
        if let Some((name, value)) = text.split_once(':') {
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
    }
}

/// One request, its whole answer.
pub(crate) fn request(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Reply {
    let mut reader = send(server, method, path, headers, body);
    let (code, headers) = head(&mut reader).expect("an answer");
    let find = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let mut bytes = vec![0; find("content-length").and_then(|l| l.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut bytes).expect("the body");
    let text = String::from_utf8(bytes).expect("UTF-8");
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Reply { code, headers, text, body }
}

pub(crate) fn get(server: &Server, path: &str) -> Reply {
    request(server, "GET", path, &[], None)
}

pub(crate) fn post(server: &Server, path: &str, body: &Value) -> Reply {
    request(server, "POST", path, &[], Some(body))
}

pub(crate) fn put(server: &Server, path: &str, body: &Value) -> Reply {
    request(server, "PUT", path, &[], Some(body))
}

pub(crate) fn patch(server: &Server, path: &str, format: &str, body: &Value) -> Reply {
    let content_type = format!("application/{format}");
    request(server, "PATCH", path, &[("content-type", &content_type)], Some(body))
}

pub(crate) fn delete(server: &Server, path: &str) -> Reply {
    request(server, "DELETE", path, &[], None)
}

/// How a stream went on.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// A line of JSON.
    Event(Value),
    /// Clean end.
    Eof,
    /// The connection broke.
    Broken,
    /// Nothing came for the time waited.
    Quiet,
}

/// An open watch.
pub(crate) struct Stream {
    reader: BufReader<TcpStream>,
    pub(crate) code: u16,
    held: Vec<u8>,
    /// Sizes of the chunks so far.
    pub(crate) chunks: Vec<usize>,
}

/// Opens a watch.
pub(crate) fn watch(server: &Server, path: &str) -> Stream {
    let mut reader = send(server, "GET", path, &[], None);
    let (code, _) = head(&mut reader).expect("an answer");
    Stream { reader, code, held: Vec::new(), chunks: Vec::new() }
}

impl Stream {
    /// The next line, waiting at most so long for each read.
    pub(crate) fn next_within(&mut self, time: Duration) -> Next {
        self.reader.get_ref().set_read_timeout(Some(time)).expect("timeout");
        loop {
            if let Some(end) = self.held.iter().position(|b| *b == b'\n') {
                let rest = self.held.split_off(end + 1);
                let whole = std::mem::replace(&mut self.held, rest);
                return Next::Event(serde_json::from_slice(&whole).expect("a line is JSON"));
            }
            match self.chunk() {
                Ok(0) => return if self.held.is_empty() { Next::Eof } else { Next::Broken },
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Next::Quiet;
                }
                Err(_) => return Next::Broken,
            }
        }
    }

    pub(crate) fn next(&mut self) -> Next {
        self.next_within(Duration::from_secs(5))
    }

    /// The next event's type and object.
    pub(crate) fn event(&mut self) -> (String, Value) {
        match self.next() {
            Next::Event(mut event) => {
                (event["type"].as_str().unwrap_or_default().to_owned(), event["object"].take())
            }
            other => panic!("expected an event, got {other:?}"),
        }
    }

    /// The next event's type and the object's name.
    pub(crate) fn brief(&mut self) -> (String, String) {
        let (kind, object) = self.event();
        (kind, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }

    fn chunk(&mut self) -> std::io::Result<usize> {
        let size = usize::from_str_radix(&line(&mut self.reader)?, 16)
            .map_err(|_| ErrorKind::InvalidData)?;
        let mut bytes = vec![0; size + 2];
        self.reader.read_exact(&mut bytes)?;
        bytes.truncate(size);
        self.held.extend(&bytes);
        self.chunks.push(size);
        Ok(size)
    }
}

/// A plain Service.
pub(crate) fn service(name: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}]},
    })
}

/// A plain slice of a Service.
pub(crate) fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> =
        addresses.iter().map(|a| serde_json::json!({"addresses": [a]})).collect();
    serde_json::json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 8080}],
    })
}

/// Waits until a condition holds; panics after five seconds.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "not within five seconds: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
