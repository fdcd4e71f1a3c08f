//! A peer made of octets: connects to the speaker, says what the test wants, reads what comes.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use ipnet::IpNet;
use sluice_bgp::fsm::Settings;
use sluice_bgp::{Message, Notification, Params, Received, Update, decode, next_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long an answer may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct RawPeer {
    pub(crate) stream: TcpStream,
    pub(crate) params: Params,
    inbox: BytesMut,
}

impl RawPeer {
    /// Connects from an address.
    pub(crate) async fn connect(from: IpAddr, to: SocketAddr) -> Self {
        Self::connect_with(from, to, |_| {}).await
    }

    /// The same, with a socket that is made ready.
    pub(crate) async fn connect_with(
        from: IpAddr,
        to: SocketAddr,
        ready: impl Fn(socket2::SockRef<'_>),
    ) -> Self {
        for _ in 0..50 {
            let v4 = from.is_ipv4();
            let socket = if v4 { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
            ready(socket2::SockRef::from(&socket));
            socket.bind(SocketAddr::new(from, 0)).unwrap();
            if let Ok(stream) = socket.connect(to).await {
                return Self::of(stream);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no connection from {from} to {to}");
    }

    /// The peer's end of a connection that the speaker made.
    pub(crate) fn of(stream: TcpStream) -> Self {
        Self { stream, params: Params::default(), inbox: BytesMut::new() }
    }

    /// Connects and gets to Established with what the settings say.
    pub(crate) async fn established(from: IpAddr, to: SocketAddr, settings: &Settings) -> Self {
        let mut peer = Self::connect(from, to).await;
        peer.establish(settings).await;
        peer
    }

    pub(crate) async fn establish(&mut self, settings: &Settings) {
        let Received::Open(open) = self.receive().await else { panic!("no OPEN") };
        self.send(&Message::Open(settings.open())).await;
        self.send(&Message::Keepalive).await;
        assert_eq!(self.receive().await, Received::Keepalive);
        self.params = Params {
            four_octet_as: open.four_octet_as().is_some(),
            extended_messages: settings.extended_messages,
            enhanced_refresh: true,
            extended_next_hop: false,
            ibgp: settings.is_internal(),
            families: settings.families,
        };
    }

    pub(crate) async fn send(&mut self, message: &Message) {
        let mut octets = BytesMut::new();
        message.encode(&self.params, &mut octets).expect("fits");
        self.send_octets(&octets).await;
    }

    pub(crate) async fn send_octets(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).await.expect("sent");
    }

    /// The next message; `None` when the speaker has closed.
    pub(crate) async fn try_receive(&mut self) -> Option<Received> {
        loop {
            let frame = next_frame(&mut self.inbox, self.params.extended_messages);
            if let Some(frame) = frame.expect("the speaker's framing") {
                return Some(decode(&frame, &self.params).expect("the speaker's message"));
            }
            match timeout(PATIENCE, self.stream.read_buf(&mut self.inbox)).await {
                Err(_) => panic!("nothing came for {PATIENCE:?}"),
                Ok(Ok(0)) => return None,
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => return None,
                Ok(Err(error)) => panic!("{error}"),
            }
        }
    }

    pub(crate) async fn receive(&mut self) -> Received {
        self.try_receive().await.expect("a message, not the end")
    }

    /// The NOTIFICATION that ends the session, after anything else; and the end itself.
    pub(crate) async fn ended(&mut self) -> Option<Notification> {
        let mut last = None;
        while let Some(message) = self.try_receive().await {
            assert_eq!(last, None, "nothing after a NOTIFICATION");
            if let Received::Notification(notification) = message {
                last = Some(notification);
            }
        }
        last
    }

    /// The next UPDATE that is no End-of-RIB.
    pub(crate) async fn update(&mut self) -> Update {
        loop {
            if let Received::Update(received) = self.receive().await
                && received.end_of_rib.is_none()
            {
                assert_eq!(received.faults, []);
                return received.update;
            }
        }
    }
}

/// A message of that type with that body.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = BytesMut::new();
    octets.put_bytes(0xff, 16);
    octets.put_u16(u16::try_from(19 + body.len()).unwrap());
    octets.put_u8(kind);
    octets.put_slice(body);
    octets.to_vec()
}

/// An UPDATE of raw parts.
pub(crate) fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let field =
        |octets: &[u8]| [&u16::try_from(octets.len()).unwrap().to_be_bytes(), octets].concat();
    message(2, &[field(withdrawn), field(attributes), nlri.to_vec()].concat())
}

/// ORIGIN, AS_PATH and NEXT_HOP that are right, for a path of one AS in four octets (none for an
/// internal peer).
pub(crate) fn mandatory(asn: Option<u32>, next_hop: Ipv4Addr) -> Vec<u8> {
    let path = match asn {
        Some(asn) => [&[0x40, 2, 6, 2, 1][..], &asn.to_be_bytes()].concat(),
        None => vec![0x40, 2, 0],
    };
    [&[0x40, 1, 1, 0][..], &path, &[0x40, 3, 4], &next_hop.octets()].concat()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}
