//! Connections whose source is translated share the node's address, and must not share a tuple.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::flags::{addresses, node_port};
use crate::raw::any;
use crate::rig::{Rig, WAYS, Way, patient, rig};

const NAME: &str = "crowded";
/// From which all clients ask: outside of what kernels give away.
const PORT: u16 = 23_456;

enum Asker {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
}

impl Asker {
    /// A connection from a port of a namespace.
    fn open(rig: &Rig, from: &str, port: u16, target: SocketAddr, way: Way) -> io::Result<Self> {
        let limit = patient(Duration::from_secs(2));
        let opened = rig.netns(from).run(|| -> io::Result<Self> {
            let own = SocketAddr::new(any(target.ip()), port);
            if way.udp {
                let socket = UdpSocket::bind(own)?;
                socket.connect(target)?;
                socket.set_read_timeout(Some(limit))?;
                return Ok(Self::Udp(socket));
            }
            let domain = if way.v4 { Domain::IPV4 } else { Domain::IPV6 };
            let socket = Socket::new(domain, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&own.into())?;
            socket.connect_timeout(&target.into(), limit)?;
            socket.set_read_timeout(Some(limit))?;
            Ok(Self::Tcp(BufReader::new(socket.into())))
        });
        opened.unwrap()
    }

    /// Asks, and gives the address and port that the backend saw.
    fn ask(&mut self, question: &str) -> io::Result<String> {
        let mut line = String::new();
        match self {
            Self::Tcp(stream) => {
                stream.get_mut().write_all(format!("{question}\n").as_bytes())?;
                stream.read_line(&mut line)?;
            }
            Self::Udp(socket) => {
                socket.send(format!("{question}\n").as_bytes())?;
                let mut answer = [0; 256];
                let length = socket.recv(&mut answer)?;
                line = String::from_utf8_lossy(&answer[..length]).into_owned();
            }
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, seen, answered] if answered == question => Ok(seen.to_owned()),
            _ => Err(io::Error::other(line)),
        }
    }
}

/// Three who are outside for n1, all from one port to one backend, which sees n1 in each case.
#[test]
fn r13_clients_from_one_port_are_kept_apart() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let at = node_port(rig, NAME);
    let (node, _) = addresses(rig);
    for backend in ["web-2", "web-3"] {
        rig.endpoints(NAME, &[backend]);
        for way in WAYS {
            let target = at(&node, way);
            rig.settle("office", target, way, &[backend]);
            rig.settle("client-n3", target, way, &[backend]);
            let mut askers: Vec<(&str, Asker)> = ["office", "client-n3", "n2"]
                .into_iter()
                .map(|from| (from, Asker::open(rig, from, PORT, target, way).unwrap()))
                .collect();
            let mut seen = BTreeSet::new();
            for round in 0..3 {
                for (number, (from, asker)) in askers.iter_mut().enumerate() {
                    // Each is answered its own question.
                    let answer = asker.ask(&format!("{round}{number}"));
                    let answer = answer.unwrap_or_else(|fault| {
                        panic!("{from} to {target} of {backend} {way:?}: {fault}")
                    });
                    seen.insert(answer);
                }
            }
            assert_eq!(seen.len(), askers.len(), "{way:?} {backend}: {seen:?}");
            let own: Vec<SocketAddr> = seen.iter().map(|end| end.parse().unwrap()).collect();
            assert!(own.iter().all(|end| end.ip() == way.pick(&node)), "{way:?}: {own:?}");
        }
    }
    rig.remove(NAME);
}
