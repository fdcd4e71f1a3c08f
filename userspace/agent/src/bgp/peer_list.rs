//! The annotation `peers`: a list of routers, as JSON or in the YAML that kube-router documents (a
//! list of flat maps).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::nodes::asn;
use super::peer_options::{self, PeerOptions};
use super::settings::{Key, RouterPeer};
use sluice_bgp::driver::Password;

/// Longest annotation that is read.
const MAX_OCTETS: usize = 64 * 1024;

/// Names that say who the router is and how to talk to it; the others are [`peer_options::NAMES`].
const NAMES: [&str; 8] =
    ["remoteip", "remoteasn", "port", "localip", "password", "passwordfile", "bfd", "ttlsecurity"];

/// Reads the list.
///
/// # Errors
/// What is wrong, with the position in the list; never a password.
pub(super) fn read(text: &str) -> Result<Vec<RouterPeer>, String> {
    if text.len() > MAX_OCTETS {
        return Err(format!("longer than {MAX_OCTETS} octets"));
    }
    let maps = if text.starts_with('[') { json(text)? } else { yaml(text)? };
    let peers = maps
        .iter()
        .enumerate()
        .map(|(at, map)| peer(map).map_err(|why| format!("peer {}: {why}", at + 1)));
    peers.collect()
}

type Map = BTreeMap<String, String>;

fn json(text: &str) -> Result<Vec<Map>, String> {
    let maps: Vec<BTreeMap<String, Value>> =
        serde_json::from_str(text).map_err(|error| format!("not a list of maps: {error}"))?;
    let plain = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(maps
        .into_iter()
        .map(|map| map.into_iter().map(|(name, value)| (name, plain(value))).collect())
        .collect())
}

fn yaml(text: &str) -> Result<Vec<Map>, String> {
    let mut maps: Vec<Map> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = match line.strip_prefix('-') {
            Some(rest) => {
                maps.push(Map::new());
                rest.trim()
            }
            None => line,
        };
        if entry.is_empty() {
            continue;
        }
        let bad = || "expected JSON, or lines `- remoteip: ADDRESS` and `NAME: VALUE`".to_owned();
        let (name, value) = entry.split_once(": ").ok_or_else(bad)?;
        let map = maps.last_mut().ok_or_else(bad)?;
        let value = value.trim().trim_matches(['"', '\'']);
        map.insert(name.trim().to_owned(), value.to_owned());
    }
    Ok(maps)
}

fn peer(map: &Map) -> Result<RouterPeer, String> {
    let known = || NAMES.iter().chain(&peer_options::NAMES).copied();
    if let Some(name) = map.keys().find(|name| !known().any(|known| known == name.as_str())) {
        let known: Vec<&str> = known().collect();
        return Err(format!("{name:?} is not known; accepted: {}", known.join(", ")));
    }
    let get = |name: &str| map.get(name).map(String::as_str);
    let address = |text: &str| -> Result<IpAddr, String> {
        text.parse().map_err(|_| format!("{text:?} is no address"))
    };
    let port = match get("port") {
        None => 179,
        Some(text) => text
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("{text:?} is no port"))?,
    };
    let router = RouterPeer {
        address: address(get("remoteip").ok_or("no remoteip")?)?,
        asn: asn(get("remoteasn").ok_or("no remoteasn")?)?,
        port,
        local_address: get("localip").map(address).transpose()?,
        bfd: match get("bfd") {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(format!("bfd: {other:?}; accepted: true, false")),
        },
        ttl_security: match get("ttlsecurity") {
            None | Some("0") => None,
            Some(text) => {
                let hops = text.parse().ok().filter(|hops| *hops < 255);
                Some(hops.ok_or_else(|| format!("ttlsecurity: {text:?}; accepted: 0 to 254"))?)
            }
        },
        key: key(get("password").unwrap_or_default(), get("passwordfile").unwrap_or_default())?,
        options: PeerOptions::read(get)?,
    };
    if router.ttl_security.is_some() && router.options.multihop.is_some_and(|hops| hops > 1) {
        let text =
            "ttlsecurity says itself how many hops there may be; accepted with multihop 0 and 1";
        return Err(text.to_owned());
    }
    Ok(router)
}

/// Where the key is; nowhere if both are empty.
fn key(given: &str, file: &str) -> Result<Key, String> {
    match (given, file) {
        ("", "") => Ok(Key::None),
        (given, "") => password(given).map(Key::Given),
        ("", file) if is_file_name(file) => Ok(Key::File(file.to_owned())),
        ("", file) => Err(format!(
            "passwordfile: {file:?}; accepted: a name of letters, digits, '-', '_' and '.' in the \
             folder of --peer-passwords-dir"
        )),
        _ => Err("password and passwordfile: only one of them".to_owned()),
    }
}

/// What a key of a Secret may be (validation `IsConfigMapKey`): no way out of a folder.
fn is_file_name(text: &str) -> bool {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
    text != "." && !text.starts_with("..") && text.len() <= 253 && text.bytes().all(plain)
}

/// A password in Base64.
///
/// # Errors
/// What is wrong, without the password.
pub(super) fn password(base64: &str) -> Result<Password, String> {
    let octets = decode(base64).ok_or("the password is not Base64")?;
    let text = String::from_utf8(octets).map_err(|_| "the password is not UTF-8")?;
    plain(&text)
}

/// A password as it is; a newline at its end is none of it.
///
/// # Errors
/// What is wrong, without the password.
pub(super) fn plain(text: &str) -> Result<Password, String> {
    Password::new(text.trim_end_matches(['\n', '\r']))
        .ok_or_else(|| format!("the password has not 1 to {} octets", Password::MAX_LEN))
}

/// Standard Base64 with padding (RFC 4648 4).
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    let body = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - body.len() > 2 {
        return None;
    }
    let (mut octets, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for symbol in body.bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            octets.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_kube_routers_yaml_say_the_same() {
        let yaml = "- remoteip: 192.0.2.9\n  remoteasn: 65000\n  password: c2VjcmV0\n\
                    - remoteip: \"fd00::9\"\n  remoteasn: 65001\n  port: 1179\n  localip: fd00::1\n  bfd: true\n  \
                    ttlsecurity: 1\n  passwordfile: tor-1\n";
        let json = r#"[{"remoteip": "192.0.2.9", "remoteasn": 65000, "password": "c2VjcmV0"},
            {"remoteip": "fd00::9", "remoteasn": "65001", "port": 1179, "localip": "fd00::1", "bfd": true,
             "ttlsecurity": 1, "passwordfile": "tor-1"}]"#;
        let peers = read(yaml).expect("YAML");
        assert_eq!(read(json).expect("JSON"), peers);
        assert_eq!(peers.len(), 2);
        assert_eq!((peers[0].port, peers[1].port), (179, 1179));
        assert_eq!((peers[0].bfd, peers[1].bfd), (false, true));
        assert_eq!(peers[0].key, Key::Given(Password::new("secret").expect("fits")));
        assert_eq!(peers[1].key, Key::File("tor-1".to_owned()));
        assert_eq!((peers[0].ttl_security, peers[1].ttl_security), (None, Some(1)));
    }

    #[test]
    fn settings_of_one_router() {
        let text = "- remoteip: 192.0.2.9\n  remoteasn: 65000\n  multihop: 4\n  holdtime: 9\n  \
            gracefulrestart: false\n  med: 50\n  communities: 64512:1, no-export, 1:2:3\n  \
            prepend: 64512 3\n  nexthopself: true\n  passive: true\n  firstas: false\n  \
            maxprefixes: 10\n- remoteip: 192.0.2.8\n  remoteasn: 65000\n  holdtime: 1m";
        let peers = read(text).expect("YAML");
        let PeerOptions { communities, .. } = peers[0].options.clone();
        let (standard, large) = communities.expect("given");
        assert_eq!((standard.len(), large.len()), (2, 1));
        let expected = PeerOptions {
            multihop: Some(4),
            hold_s: Some(9),
            graceful_restart: Some(false),
            med: Some(50),
            communities: Some((standard, large)),
            prepend: Some((64512, 3)),
            next_hop_self: Some(true),
            passive: true,
            first_as: Some(false),
            max_prefixes: Some(10),
        };
        assert_eq!(peers[0].options, expected);
        let second = PeerOptions { hold_s: Some(60), ..PeerOptions::default() };
        assert_eq!(peers[1].options, second, "what is not given is as for all");
        for (key, expected) in [
            ("multihop: 256", "0 to 255"),
            ("holdtime: 2s", "3 to 65535"),
            ("holdtime: 0", "3 to 65535"),
            ("gracefulrestart: yes", "accepted: true, false"),
            ("med: -1", "0 to 4294967295"),
            ("communities: 70000:1", "is no community"),
            ("prepend: 64512", "64512 3"),
            ("prepend: 64512 11", "1 to 10"),
            ("nexthopself: 1", "accepted: true, false"),
            ("maxprefixes: 0", "1 to"),
            ("multihop: 2\n  ttlsecurity: 1", "how many hops"),
            ("next-hop-self: true", "nexthopself, passive, firstas, maxprefixes"),
        ] {
            let text = format!("- remoteip: 192.0.2.9\n  remoteasn: 1\n  {key}");
            let error = read(&text).expect_err(key);
            assert!(error.contains(expected), "{key}: {error}");
        }
    }

    #[test]
    fn errors_name_the_peer_and_what_is_accepted_and_no_password() {
        for (text, expected) in [
            ("- remoteip: 192.0.2.9", "peer 1: no remoteasn"),
            ("- remoteip: x\n  remoteasn: 1", "is no address"),
            ("- remoteip: 192.0.2.9\n  remoteasn: 0", "is no AS"),
            ("- remoteip: 192.0.2.9\n  remoteasn: 1\n  colour: red", "accepted: remoteip"),
            ("- remoteip: 192.0.2.9\n  remoteasn: 1\n  password: 'secret!'", "not Base64"),
            ("- remoteip: 192.0.2.9\n  remoteasn: 1\n  ttlsecurity: 255", "accepted: 0 to 254"),
            ("remoteip 192.0.2.9", "expected JSON"),
            ("[1]", "not a list of maps"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_password_file_is_a_name_in_the_folder_and_no_way_out_of_it() {
        let peer = |key: &str| read(&format!("- remoteip: 192.0.2.9\n  remoteasn: 1\n{key}"));
        for name in ["tor-1", ".hidden", "a.b_c", "A"] {
            let peers = peer(&format!("  passwordfile: {name}")).expect(name);
            assert_eq!(peers[0].key, Key::File(name.to_owned()));
        }
        for name in ["..", "../x", "..data", "/etc/shadow", "a/b", ".", "a b"] {
            let error = peer(&format!("  passwordfile: {name}")).expect_err(name);
            assert!(error.contains("passwordfile"), "{error}");
        }
        let both = peer("  passwordfile: a\n  password: c2VjcmV0").expect_err("both");
        assert!(both.contains("only one of them"), "{both}");
    }
}
