//! Owns the routers' passwords: finds each where its configuration says that it is, in the
//! annotation, in the list of `--peer-router-passwords-file`, or in a file of
//! `--peer-passwords-dir`. Read at every look, so that changes count without a restart.
//!
//! What cannot be read leaves the router's last good password. A router whose password was never
//! read is not talked to: without its key anyone could speak in its name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use sluice_bgp::driver::Password;

use super::peer_list;
use super::settings::{Key, KeyedRouter, RouterPeer, Settings};

/// Last good passwords by router.
#[derive(Debug, Default)]
pub(super) struct Keys {
    good: BTreeMap<IpAddr, Option<Password>>,
}

impl Keys {
    /// Routers that can be talked to, in their order, and what is wrong with passwords; never a
    /// password itself.
    pub(super) fn find(
        &mut self,
        settings: &Settings,
        routers: &[RouterPeer],
    ) -> (Vec<KeyedRouter>, Vec<String>) {
        let mut problems = Vec::new();
        let list = match &settings.passwords_file {
            Some(path) => match read_list(path, settings.routers.len()) {
                Ok(list) => list,
                Err(why) => {
                    problems.push(why);
                    Vec::new()
                }
            },
            None => Vec::new(),
        };
        self.good.retain(|address, _| routers.iter().any(|router| router.address == *address));
        let mut keyed = Vec::new();
        for router in routers {
            let address = router.address;
            let found = match &router.key {
                Key::None => Some(None),
                Key::Given(password) => Some(Some(password.clone())),
                Key::Entry(at) => match list.get(*at).map(String::as_str) {
                    // The whole list was told of.
                    None => None,
                    Some("") => Some(None),
                    Some(word) => peer_list::password(word)
                        .map_err(|why| {
                            let flag = "--peer-router-passwords-file";
                            problems.push(format!("{flag}, entry {}: {why}", at + 1));
                        })
                        .ok()
                        .map(Some),
                },
                Key::File(name) => read_file(settings.passwords_dir.as_deref(), name)
                    .map_err(|why| problems.push(format!("peer {address}: {why}")))
                    .ok()
                    .map(Some),
            };
            if let Some(password) = found {
                self.good.insert(address, password);
            }
            match self.good.get(&address) {
                Some(password) => keyed.push((router.clone(), password.clone())),
                None => problems.push(format!("peer {address}: waits for its password")),
            }
        }
        (keyed, problems)
    }
}

/// Entries of the list, one for each of `count` routers.
fn read_list(path: &Path, count: usize) -> Result<Vec<String>, String> {
    let place = format!("--peer-router-passwords-file {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|fault| format!("{place}: {fault}"))?;
    let words: Vec<String> =
        text.trim().split([',', '\n']).map(|word| word.trim().to_owned()).collect();
    if words.len() != count {
        let given = words.len();
        return Err(format!(
            "{place}: {given} entries for {count} routers; accepted: one for each"
        ));
    }
    Ok(words)
}

fn read_file(folder: Option<&Path>, name: &str) -> Result<Password, String> {
    let folder = folder.ok_or("passwordfile: accepted with --peer-passwords-dir")?;
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path);
    let text = text.map_err(|fault| format!("passwordfile {}: {fault}", path.display()))?;
    peer_list::plain(&text).map_err(|why| format!("passwordfile {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::peer_options::PeerOptions;
    use crate::bgp::settings::for_tests;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn router(n: u8, key: Key) -> RouterPeer {
        let address = IpAddr::from([192, 0, 2, n]);
        let (local_address, ttl_security) = (None, None);
        let options = PeerOptions::default();
        RouterPeer {
            address,
            asn: 65000,
            port: 179,
            local_address,
            bfd: false,
            ttl_security,
            key,
            options,
        }
    }

    fn passwords(keyed: &[KeyedRouter]) -> Vec<Option<Password>> {
        keyed.iter().map(|(_, password)| password.clone()).collect()
    }

    #[test]
    fn a_mounted_secret_is_followed_and_what_is_gone_leaves_the_last_good_password() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // As kubelet mounts Secrets: files by way of a link that is replaced at once.
        let mount = |version: &str, text: &str| {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("tor"), text).unwrap();
            symlink(version, path("..new")).unwrap();
            fs::rename(path("..new"), path("..data")).unwrap();
        };
        let settings = Settings { passwords_dir: Some(folder.path().to_owned()), ..for_tests() };
        let routers = [router(1, Key::File("tor".to_owned())), router(2, Key::None)];
        let mut keys = Keys::default();
        let (keyed, problems) = keys.find(&settings, &routers);
        assert_eq!(passwords(&keyed), [None], "only the one without a password");
        assert!(keyed[0].0.address == routers[1].address && problems.len() == 2, "{problems:?}");
        mount("..1", "first\n");
        symlink("..data/tor", path("tor")).unwrap();
        let (keyed, problems) = keys.find(&settings, &routers);
        assert_eq!((passwords(&keyed), problems.len()), (vec![Password::new("first"), None], 0));
        mount("..2", "second");
        assert_eq!(passwords(&keys.find(&settings, &routers).0)[0], Password::new("second"));
        for bad in ["", "  \n".trim_end(), &"x".repeat(81)] {
            fs::write(path("..2").join("tor"), bad).unwrap();
            let (keyed, problems) = keys.find(&settings, &routers);
            assert_eq!(passwords(&keyed)[0], Password::new("second"), "the last good one");
            assert_eq!(problems.len(), 1, "{problems:?}");
        }
        fs::remove_file(path("tor")).unwrap();
        let (keyed, problems) = keys.find(&settings, &routers);
        assert_eq!((passwords(&keyed)[0].clone(), problems.len()), (Password::new("second"), 1));
        assert!(!problems[0].contains("second"), "{problems:?}");
        // Another file that is not there yet, too.
        let other = [router(1, Key::File("other".to_owned()))];
        assert_eq!(passwords(&keys.find(&settings, &other).0), [Password::new("second")]);
        let none = Settings { passwords_dir: None, ..settings };
        let (_, problems) = keys.find(&none, &other);
        assert!(problems[0].contains("--peer-passwords-dir"), "{problems:?}");
    }

    #[test]
    fn the_list_has_an_entry_for_each_router_of_the_flags() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        let routers = vec![router(1, Key::Entry(0)), router(2, Key::Entry(1))];
        let settings = Settings {
            passwords_file: Some(path.clone()),
            routers: routers.clone(),
            ..for_tests()
        };
        let mut keys = Keys::default();
        let (keyed, problems) = keys.find(&settings, &routers);
        assert_eq!((keyed.len(), problems.len()), (0, 3), "no list, no talk: {problems:?}");
        fs::write(&path, "c2VjcmV0,\n").unwrap();
        let (keyed, problems) = keys.find(&settings, &routers);
        assert_eq!(passwords(&keyed), [Password::new("secret"), None], "{problems:?}");
        for (bad, expected) in [("c2VjcmV0", "1 entries for 2"), ("secret!,", "entry 1")] {
            fs::write(&path, bad).unwrap();
            let (keyed, problems) = keys.find(&settings, &routers);
            assert_eq!(passwords(&keyed), [Password::new("secret"), None], "the last good ones");
            assert!(problems[0].contains(expected), "{problems:?}");
            assert!(!problems[0].contains("secret!"), "{problems:?}");
        }
    }
}
