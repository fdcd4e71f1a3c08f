//! The kernel's ELF image, taken out of the compressed one: an emulated processor would spend three
//! seconds of each boot on unpacking, and the place it lands on would differ from run to run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use object::{Object as _, ObjectSection as _};

use super::kernel::Tree;

/// Offsets in the header of a bzImage, and its sector size (Linux, Documentation/arch/x86/boot.rst).
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// First bytes of the formats, and what unpacks them.
const UNPACKERS: &[(&[u8], &str, &[&str])] = &[
    (b"\xfd7zXZ\0", "xz", &["-dc", "--single-stream"]),
    (b"\x28\xb5\x2f\xfd", "zstd", &["-dc"]),
    (b"\x1f\x8b", "gzip", &["-dc"]),
];

/// The image to boot: the unpacked one where it can be had, else the one in the package.
pub(crate) fn bootable(tree: &Tree) -> Result<PathBuf> {
    let unpacked = tree.folder.join("vmlinux");
    if unpacked.is_file() {
        return Ok(unpacked);
    }
    let packed = tree.image();
    let image = fs::read(&packed).with_context(|| format!("reading {}", packed.display()))?;
    let half = unpacked.with_extension("new");
    let done = payload(&image).is_some_and(|payload| unpack(payload, tree, &half).is_some());
    if done {
        fs::rename(half, &unpacked)?;
        return Ok(unpacked);
    }
    Ok(packed)
}

/// Writes the ELF image to `to`; `None` where no tool unpacks it, or QEMU could not enter it.
fn unpack(payload: &[u8], tree: &Tree, to: &Path) -> Option<()> {
    let (_, program, arguments) =
        UNPACKERS.iter().find(|(magic, ..)| payload.starts_with(magic))?;
    // Through a file: the tool may end before it has read all.
    let from = tree.folder.join("payload");
    fs::write(&from, payload).ok()?;
    let status = Command::new(program)
        .args(*arguments)
        .stdin(File::open(&from).ok()?)
        .stdout(File::create(to).ok()?)
        .stderr(Stdio::null())
        .status()
        .ok()?;
    fs::remove_file(from).ok()?;
    (status.success() && can_be_entered(&fs::read(to).ok()?)).then_some(())
}

/// The compressed kernel in a bzImage, without the 4 bytes of its size that follow it.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let (at, magic) = MAGIC;
    if image.get(at..at + magic.len())? != magic {
        return None;
    }
    let number = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    // 0 means 4, for very old loaders.
    let sectors = match *image.get(SETUP_SECTORS)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR + number(PAYLOAD_OFFSET)?;
    let length = number(PAYLOAD_LENGTH)?.checked_sub(4)?;
    image.get(start..start.checked_add(length)?)
}

/// Whether an ELF kernel has the note that names its 32-bit entry (XEN_ELFNOTE_PHYS32_ENTRY, 18):
/// QEMU enters it there.
fn can_be_entered(elf: &[u8]) -> bool {
    let Ok(file) = object::File::parse(elf) else {
        return false;
    };
    let notes = file.section_by_name(".notes").and_then(|section| section.data().ok());
    // Size of the name, size of the value (an address), type, name.
    let header = |value: u8| [[4, 0, 0, 0], [value, 0, 0, 0], [18, 0, 0, 0], *b"Xen\0"].concat();
    notes.is_some_and(|notes| {
        notes.windows(16).any(|window| window == header(4) || window == header(8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_lies_where_the_header_says() {
        let mut image = vec![0_u8; 2048];
        image[SETUP_SECTORS] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&9_u32.to_le_bytes());
        image[1040..1049].copy_from_slice(b"abcdesize");
        assert_eq!(payload(&image), Some(&b"abcde"[..]));
        assert_eq!(payload(&image[..1044]), None);
        image[0x202] = 0;
        assert_eq!(payload(&image), None);
        assert_eq!(payload(b"short"), None);
    }

    #[test]
    fn an_elf_file_without_the_note_is_not_booted() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!can_be_entered(&own));
        assert!(!can_be_entered(b"no ELF"));
    }
}
