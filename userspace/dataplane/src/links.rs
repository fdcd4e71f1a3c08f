//! Attachments: by TCX and pinned links where the kernel has them (6.6), else by clsact filters.
//!
//! Both outlive the agent, and both are replaced in place: there is no moment without a program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, Link as _, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
};
use aya::programs::{SchedClassifier, TcAttachType};

use crate::Error;
use crate::object::{PROGRAMS, classifier, pins};

/// Priority of our filters where clsact is used; with the handle it makes them recognisable.
const PRIORITY: u16 = 92;
/// Handle of our filters.
const HANDLE: TcHandle = TcHandle::new(0, 92);

/// Where a program is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) ifindex: u32,
    pub(crate) program: &'static str,
}

/// A program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Interface name.
    pub interface: String,
    /// Program name.
    pub program: &'static str,
    /// `tcx` or `clsact`.
    pub mode: &'static str,
}

/// All attachments.
pub(crate) struct Links {
    folder: PathBuf,
    tcx: bool,
    attached: BTreeMap<Place, Attachment>,
    /// Whether the uplinks were known when what earlier runs left was last looked for.
    swept: Option<bool>,
}

impl Links {
    pub(crate) fn new(bpf_dir: &Path) -> Self {
        // Asked once, of an interface that is always there: what fails later is that interface's matter.
        let tcx = SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok();
        Self { folder: pins(bpf_dir).join("links"), tcx, attached: BTreeMap::new(), swept: None }
    }

    pub(crate) fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attached.values()
    }

    pub(crate) fn is_on(&self, interface: &str) -> bool {
        self.attached.values().any(|one| one.interface == interface)
    }

    pub(crate) fn has(&self, place: &Place) -> bool {
        self.attached.contains_key(place)
    }

    /// Forgets interfaces that are gone (the kernel has detached them), and takes programs off
    /// `strays`, where they are not wanted any more; `None` where that is not known. They are where
    /// they are `wanted`, or will be with the next attempt.
    pub(crate) fn forget(
        &mut self,
        is_there: impl Fn(&Place) -> bool,
        wanted: &[Place],
        strays: Option<&BTreeMap<Place, String>>,
    ) {
        let is_stray = |place: &Place| strays.is_some_and(|strays| strays.contains_key(place));
        let stays = |place: &Place| is_there(place) && !is_stray(place);
        let first = self.swept != Some(strays.is_some());
        if !self.tcx {
            for (place, interface) in strays.into_iter().flatten() {
                // A side of an interface has one filter of ours, whatever its program.
                let side = |other: &Place| (other.ifindex, kind(other.program));
                let is_taken = wanted.iter().any(|other| side(other) == side(place));
                // Filters are not listed anywhere: one of an earlier run is met by trying.
                if !is_taken && (first || self.has(place)) {
                    detach_clsact(interface, kind(place.program));
                }
            }
        }
        let before = self.attached.len();
        self.attached.retain(|place, Attachment { interface, program, .. }| {
            if is_stray(place) {
                tracing::info!(%interface, program, "no uplink any more: the program is taken off");
            }
            stays(place)
        });
        if first || self.attached.len() < before {
            let removed = self.remove_pins(|place| !stays(place));
            // A pin that could not be removed is tried again next time.
            self.swept = removed.then_some(strays.is_some());
        }
    }

    /// Removes pins, and with them the links; false if one stays.
    fn remove_pins(&self, is_over: impl Fn(&Place) -> bool) -> bool {
        let Ok(entries) = fs::read_dir(&self.folder) else { return false };
        let mut removed = true;
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_str().and_then(parse_pin).is_some_and(|place| is_over(&place)) {
                removed &= fs::remove_file(entry.path()).is_ok();
            }
        }
        removed
    }

    /// Attaches a program, in the place of an earlier run's.
    pub(crate) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        place: Place,
        interface: &str,
    ) -> Result<(), Error> {
        let pin = self.folder.join(pin_name(&place));
        let program = classifier(ebpf, place.program)?;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Attach {
            program: place.program,
            interface: interface.to_owned(),
            source,
        };
        let kind = kind(place.program);
        let mode = if self.tcx {
            attach_tcx(program, interface, kind, &pin).map_err(failed)?;
            "tcx"
        } else {
            attach_clsact(program, interface, kind).map_err(failed)?;
            "clsact"
        };
        let program = place.program;
        let interface = interface.to_owned();
        self.attached.insert(place, Attachment { interface, program, mode });
        Ok(())
    }
}

/// The side of an interface that a program belongs to.
fn kind(program: &str) -> TcAttachType {
    if program.starts_with("to_") { TcAttachType::Egress } else { TcAttachType::Ingress }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn attach_tcx(
    program: &mut SchedClassifier,
    interface: &str,
    kind: TcAttachType,
    pin: &Path,
) -> Result<(), AnyError> {
    if pin.exists() {
        if replace_pinned(program, pin).is_ok() {
            return Ok(());
        }
        // The link of an interface that is gone; its index has been given to another.
        fs::remove_file(pin)?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(interface, kind, options)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    // The pin keeps the link when this process is gone.
    link.pin(pin)?;
    Ok(())
}

fn replace_pinned(program: &mut SchedClassifier, pin: &Path) -> Result<(), AnyError> {
    let link: FdLink = PinnedLink::from_pin(pin)?.into();
    let id = program.attach_to_link(link.try_into()?)?;
    // Dropping it closes a descriptor; the pin stays.
    drop(program.take_link(id)?);
    Ok(())
}

fn attach_clsact(
    program: &mut SchedClassifier,
    interface: &str,
    kind: TcAttachType,
) -> Result<(), AnyError> {
    // Fails where the qdisc is there already; if it is not, attaching says so.
    let _ = qdisc_add_clsact(interface);
    let ours = SchedClassifierLink::attached(interface, kind, PRIORITY, HANDLE, None)?;
    let id = match program.attach_to_link(ours) {
        Ok(id) => id,
        Err(_) => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            program.attach_with_options(interface, kind, TcAttachOptions::Netlink(options))?
        }
    };
    // Dropped, it would take the filter away.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Takes our filter off one side of an interface; false if it is not there.
fn detach_clsact(interface: &str, kind: TcAttachType) -> bool {
    let link = SchedClassifierLink::attached(interface, kind, PRIORITY, HANDLE, None);
    link.is_ok_and(|link| link.detach().is_ok())
}

/// Takes our filters off both sides of an interface; how many there were.
pub(crate) fn detach_all(interface: &str) -> usize {
    let sides = [TcAttachType::Ingress, TcAttachType::Egress];
    sides.into_iter().filter(|kind| detach_clsact(interface, *kind)).count()
}

fn pin_name(place: &Place) -> String {
    format!("{}-{}", place.ifindex, place.program)
}

fn parse_pin(name: &str) -> Option<Place> {
    let (ifindex, program) = name.split_once('-')?;
    let program = PROGRAMS.into_iter().find(|known| *known == program)?;
    Some(Place { ifindex: ifindex.parse().ok()?, program })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail")]

    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::object;

    fn run(line: &str) -> String {
        let mut words = line.split(' ');
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Where there is no TCX: the filter goes with the uplink, in the run that made it and in the
    /// next; while the uplinks are not known it stays.
    #[test]
    fn filters_are_taken_off_strays() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP: the data plane needs root");
            return;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip link add up0 type veth peer name up1");
        let place = |name: &str| {
            let ifindex = nix::net::if_::if_nametoindex(name).unwrap();
            Place { ifindex, program: "from_network" }
        };
        let filters = || {
            let all = ["up0", "up1"].map(|name| run(&format!("tc filter show dev {name} ingress")));
            all.map(|filters| filters.contains("pref 92 bpf") && filters.contains("from_network"))
        };

        let bpf_dir = format!("/sys/fs/bpf/sluice-test-{}-clsact", std::process::id());
        let bpf_dir = Path::new(&bpf_dir);
        let mut object = object::load(bpf_dir, 16).unwrap();
        let without_tcx = || Links { tcx: false, ..Links::new(bpf_dir) };
        let mut links = without_tcx();
        for name in ["up0", "up1"] {
            links.attach(&mut object.ebpf, place(name), name).unwrap();
        }
        let both = ["up0", "up1"].map(place);
        let [_, second] = &both;
        let second = std::slice::from_ref(second);
        links.forget(|_| true, &both, None);
        assert_eq!(filters(), [true, true]);
        let stray = |name: &str| BTreeMap::from([(place(name), name.to_owned())]);
        links.forget(|_| true, second, Some(&stray("up0")));
        assert_eq!(filters(), [false, true]);
        assert!(links.has(&place("up1")) && !links.has(&place("up0")));
        // An uplink is no interface to a pod; at the same side it is an uplink all the same.
        let other = Place { program: "from_pod", ..place("up1") };
        let others = BTreeMap::from([(other, "up1".to_owned())]);
        links.forget(|_| true, second, Some(&others));
        assert_eq!(filters(), [false, true]);

        let mut next = without_tcx();
        next.forget(|_| true, second, None);
        assert_eq!(filters(), [false, true]);
        // Where attaching anew has failed the filter that is there is better than none.
        next.forget(|_| true, second, Some(&others));
        assert_eq!(filters(), [false, true]);
        next.attach(&mut object.ebpf, place("up1"), "up1").unwrap();
        next.forget(|_| true, second, Some(&others));
        assert_eq!(filters(), [false, true]);
        let mut next = without_tcx();
        next.forget(|_| true, &[], Some(&stray("up1")));
        assert_eq!(filters(), [false, false]);
        drop(object);
        fs::remove_dir_all(bpf_dir).unwrap();
    }
}
