//! What a BPF object holds: instructions of each program, sizes of each map, and whether a panic
//! was left in it.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use aya_obj::generated::bpf_map_type as kind;
use object::{Object as _, ObjectSymbol as _};

/// A program or subprogram, before the kernel's verifier has rewritten it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Name of the function.
    pub(crate) name: String,
    /// Its section, such as "SchedClassifier"; `None` for a subprogram.
    pub(crate) section: Option<String>,
    /// Instructions of 8 bytes.
    pub(crate) instructions: usize,
}

/// A map as the object declares it; user space may create it with other sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Map {
    /// Name of the map.
    pub(crate) name: String,
    /// `enum bpf_map_type`.
    pub(crate) map_type: u32,
    /// Bytes of a key.
    pub(crate) key: u32,
    /// Bytes of a value (of one CPU's, in a per-CPU map).
    pub(crate) value: u32,
    /// Entries.
    pub(crate) entries: u32,
}

/// A parsed object.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// Programs by name, then subprograms by name.
    pub(crate) programs: Vec<Program>,
    /// Maps by name.
    pub(crate) maps: Vec<Map>,
    /// Names of symbols that tell of a reachable panic. Must be empty.
    pub(crate) panics: Vec<String>,
}

impl Report {
    /// Reads an object file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("parsing {}", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let parsed = aya_obj::Object::parse(bytes)?;
        let mut programs: Vec<Program> = parsed
            .functions
            .iter()
            .map(|(key, function)| {
                let program = parsed.programs.iter().find(|(_, p)| p.function_key() == *key);
                let name = program.map_or(function.name.as_str(), |(name, _)| name.as_str());
                Program {
                    name: format!("{:#}", rustc_demangle::demangle(name)),
                    section: program.map(|(_, p)| format!("{:?}", p.section)),
                    instructions: function.instructions.len(),
                }
            })
            .collect();
        programs
            .sort_by(|a, b| (a.section.is_none(), &a.name).cmp(&(b.section.is_none(), &b.name)));

        let mut maps: Vec<Map> = parsed
            .maps
            .iter()
            .map(|(name, map)| Map {
                name: name.clone(),
                map_type: map.map_type(),
                key: map.key_size(),
                value: map.value_size(),
                entries: map.max_entries(),
            })
            .collect();
        maps.sort_by(|a, b| a.name.cmp(&b.name));

        let elf = object::File::parse(bytes)?;
        let symbols = elf.symbols().filter_map(|s| s.name().ok().map(str::to_owned));
        Ok(Self { programs, maps, panics: symbols.filter(|name| is_panic(name)).collect() })
    }
}

/// Names that only a panic's path brings in. The verifier would refuse its endless loop, or worse,
/// accept a bounds check that turns a packet into one.
fn is_panic(symbol: &str) -> bool {
    ["panic", "rust_begin_unwind", "unwrap_failed", "expect_failed"]
        .iter()
        .any(|part| symbol.contains(part))
}

impl Map {
    /// Bytes of keys and values at full size, of one CPU in a per-CPU map.
    fn bytes(&self) -> u64 {
        (u64::from(self.key) + u64::from(self.value)) * u64::from(self.entries)
    }

    fn type_name(&self) -> String {
        let known = [
            (kind::BPF_MAP_TYPE_HASH, "hash"),
            (kind::BPF_MAP_TYPE_ARRAY, "array"),
            (kind::BPF_MAP_TYPE_PROG_ARRAY, "prog array"),
            (kind::BPF_MAP_TYPE_PERF_EVENT_ARRAY, "perf events"),
            (kind::BPF_MAP_TYPE_PERCPU_HASH, "per-CPU hash"),
            (kind::BPF_MAP_TYPE_PERCPU_ARRAY, "per-CPU array"),
            (kind::BPF_MAP_TYPE_LRU_HASH, "LRU hash"),
            (kind::BPF_MAP_TYPE_LRU_PERCPU_HASH, "per-CPU LRU hash"),
            (kind::BPF_MAP_TYPE_LPM_TRIE, "LPM trie"),
            (kind::BPF_MAP_TYPE_ARRAY_OF_MAPS, "array of maps"),
            (kind::BPF_MAP_TYPE_HASH_OF_MAPS, "hash of maps"),
            (kind::BPF_MAP_TYPE_DEVMAP, "device map"),
            (kind::BPF_MAP_TYPE_RINGBUF, "ring buffer"),
            (kind::BPF_MAP_TYPE_SK_STORAGE, "socket storage"),
        ];
        known
            .iter()
            .find(|(number, _)| *number as u32 == self.map_type)
            .map_or_else(|| format!("type {}", self.map_type), |(_, name)| (*name).to_owned())
    }
}

/// A size as people read it.
fn human(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<32} {:<18} {:>12}", "program", "kind", "instructions")?;
        for program in &self.programs {
            let section = program.section.as_deref().unwrap_or("(subprogram)");
            writeln!(f, "{:<32} {section:<18} {:>12}", program.name, program.instructions)?;
        }
        writeln!(
            f,
            "{:<32} {:<18} {:>5} {:>6} {:>10} {:>12}",
            "map", "type", "key", "value", "entries", "size"
        )?;
        for map in &self.maps {
            writeln!(
                f,
                "{:<32} {:<18} {:>5} {:>6} {:>10} {:>12}",
                map.name,
                map.type_name(),
                map.key,
                map.value,
                map.entries,
                human(map.bytes())
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_of_a_panic_are_told_from_others() {
        assert!(is_panic("_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE"));
        assert!(is_panic("_RNvCs1234_7___rustc17rust_begin_unwind"));
        assert!(!is_panic("from_pod"));
        assert!(!is_panic("memcpy"));
    }

    #[test]
    fn the_size_of_a_map_is_entries_times_key_and_value() {
        let map = Map { name: "FLOWS".into(), map_type: 9, key: 16, value: 48, entries: 1 << 16 };
        assert_eq!(human(map.bytes()), "4.0 MiB");
        assert_eq!(map.type_name(), "LRU hash");
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        assert!(Report::parse(b"\x7fELF and no more").is_err());
    }
}
