//! The plan's operations on the real maps.

use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use sluice_abi::{Backend, BackendState, MapData, Range, Service, ServiceKey};

use crate::Error;
use crate::layout::Kernel;
use crate::maps::{Hash, Maps, Plain, Trie};
use crate::wire::{Addr, Front, IntoIp, front, key};

fn all<A: IntoIp + Copy + 'static>(
    name: &'static str,
    map: &Hash<ServiceKey<A>, Service>,
) -> Result<Vec<(Front, Service)>, Error>
where
    ServiceKey<A>: MapData,
{
    map.iter()
        .map(|entry| entry.map_err(|error| Error::map(name, "read", error)))
        .filter_map(|entry| match entry {
            Ok((key, service)) => front(&key.0).map(|front| Ok((front, service.0))),
            Err(error) => Some(Err(error)),
        })
        .collect()
}

fn insert<K: MapData, V: MapData>(
    name: &'static str,
    map: &mut Hash<K, V>,
    key: K,
    value: V,
) -> Result<(), Error> {
    map.insert(Plain(key), Plain(value), 0).map_err(|error| Error::map(name, "insert", error))
}

fn remove<K: MapData, V: MapData>(
    name: &'static str,
    map: &mut Hash<K, V>,
    key: K,
) -> Result<(), Error> {
    gone(name, map.remove(&Plain(key)))
}

/// A removal, as well of what is not there.
fn gone(name: &'static str, result: Result<(), MapError>) -> Result<(), Error> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        Err(error) => Err(Error::map(name, "remove", error)),
    }
}

impl Kernel for Maps {
    fn frontends(&self) -> Result<Vec<(Front, Service)>, Error> {
        let mut found = all("SERVICES4", &self.services4)?;
        found.extend(all("SERVICES6", &self.services6)?);
        Ok(found)
    }

    fn slot(&self, index: u32) -> Option<u32> {
        Self::slot(self, index)
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        Self::backend(self, id)
    }

    fn put_backend(&mut self, id: u32, backend: Backend) -> Result<(), Error> {
        if backend.state == BackendState::Free as u8 {
            self.set_connections(id, 0);
        }
        self.write_backend(id, backend)
            .then_some(())
            .ok_or_else(|| Error::map("BACKENDS", "write", format!("no element {id}")))
    }

    fn write_table(&mut self, offset: u32, ids: &[u32]) -> Result<(), Error> {
        self.write_slots(offset, ids)
            .then_some(())
            .ok_or_else(|| Error::map("SLOTS", "write", format!("no elements from {offset}")))
    }

    fn put_frontend(&mut self, front: Front, service: Service) -> Result<(), Error> {
        match front.address().into() {
            Addr::V4(addr) => insert("SERVICES4", &mut self.services4, key(addr, front), service),
            Addr::V6(addr) => insert("SERVICES6", &mut self.services6, key(addr, front), service),
        }
    }

    fn remove_frontend(&mut self, front: Front) -> Result<(), Error> {
        match front.address().into() {
            Addr::V4(addr) => remove("SERVICES4", &mut self.services4, key(addr, front)),
            Addr::V6(addr) => remove("SERVICES6", &mut self.services6, key(addr, front)),
        }
    }

    fn ranges(&self) -> Result<Vec<(u32, IpNet)>, Error> {
        let mut found = all_ranges("RANGES4", &self.ranges4)?;
        found.extend(all_ranges("RANGES6", &self.ranges6)?);
        Ok(found)
    }

    fn put_range(&mut self, service: u32, range: IpNet) -> Result<(), Error> {
        match range.network().into() {
            Addr::V4(addr) => {
                let key = range_key(service, addr, range.prefix_len());
                let result = self.ranges4.insert(&key, 1, 0);
                result.map_err(|error| Error::map("RANGES4", "insert", error))
            }
            Addr::V6(addr) => {
                let key = range_key(service, addr, range.prefix_len());
                let result = self.ranges6.insert(&key, 1, 0);
                result.map_err(|error| Error::map("RANGES6", "insert", error))
            }
        }
    }

    fn remove_range(&mut self, service: u32, range: IpNet) -> Result<(), Error> {
        match range.network().into() {
            Addr::V4(addr) => {
                let key = range_key(service, addr, range.prefix_len());
                gone("RANGES4", self.ranges4.remove(&key))
            }
            Addr::V6(addr) => {
                let key = range_key(service, addr, range.prefix_len());
                gone("RANGES6", self.ranges6.remove(&key))
            }
        }
    }
}

/// Bits of a range's key before its address: the service.
const SERVICE_BITS: u32 = u32::BITS;

fn range_key<A: Copy + 'static>(service: u32, addr: A, prefix_len: u8) -> Key<Plain<Range<A>>> {
    Key::new(SERVICE_BITS + u32::from(prefix_len), Plain(Range { service, addr }))
}

fn all_ranges<A: IntoIp + Copy + 'static>(
    name: &'static str,
    map: &Trie<A>,
) -> Result<Vec<(u32, IpNet)>, Error> {
    let mut found = Vec::new();
    for key in map.keys() {
        let key = key.map_err(|error| Error::map(name, "read", error))?;
        let Range { service, addr } = key.data().0;
        let len = u8::try_from(key.prefix_len().saturating_sub(SERVICE_BITS)).unwrap_or(u8::MAX);
        found.extend(IpNet::new(addr.into_ip(), len).ok().map(|range| (service, range)));
    }
    Ok(found)
}
