//! The plan's operations on the real maps.

use aya::maps::MapError;
use sluice_abi::{Backend, MapData, Service, ServiceKey};
use sluice_services::Frontend;

use crate::Error;
use crate::layout::Kernel;
use crate::maps::{Hash, Maps, Plain};
use crate::wire::{Addr, IntoIp, frontend, key};

fn all<A: IntoIp + Copy + 'static>(
    name: &'static str,
    map: &Hash<ServiceKey<A>, Service>,
) -> Result<Vec<(Frontend, Service)>, Error>
where
    ServiceKey<A>: MapData,
{
    map.iter()
        .map(|entry| entry.map_err(|error| Error::map(name, "read", error)))
        .filter_map(|entry| match entry {
            Ok((key, service)) => frontend(&key.0).map(|frontend| Ok((frontend, service.0))),
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
    match map.remove(&Plain(key)) {
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
    fn frontends(&self) -> Result<Vec<(Frontend, Service)>, Error> {
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
        self.write_backend(id, backend)
            .then_some(())
            .ok_or_else(|| Error::map("BACKENDS", "write", format!("no element {id}")))
    }

    fn write_table(&mut self, offset: u32, ids: &[u32]) -> Result<(), Error> {
        self.write_slots(offset, ids)
            .then_some(())
            .ok_or_else(|| Error::map("SLOTS", "write", format!("no elements from {offset}")))
    }

    fn put_frontend(&mut self, frontend: Frontend, service: Service) -> Result<(), Error> {
        match frontend.address.into() {
            Addr::V4(addr) => {
                insert("SERVICES4", &mut self.services4, key(addr, frontend), service)
            }
            Addr::V6(addr) => {
                insert("SERVICES6", &mut self.services6, key(addr, frontend), service)
            }
        }
    }

    fn remove_frontend(&mut self, frontend: Frontend) -> Result<(), Error> {
        match frontend.address.into() {
            Addr::V4(addr) => remove("SERVICES4", &mut self.services4, key(addr, frontend)),
            Addr::V6(addr) => remove("SERVICES6", &mut self.services6, key(addr, frontend)),
        }
    }
}
