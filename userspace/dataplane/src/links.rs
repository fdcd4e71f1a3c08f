//! Attachments: by TCX and pinned links where the kernel has them (6.6), else by clsact filters.
//!
//! Both outlive the agent, and both are replaced in place: there is no moment without a program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
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
}

impl Links {
    pub(crate) fn new(bpf_dir: &Path) -> Self {
        // Asked once, of an interface that is always there: what fails later is that interface's matter.
        let tcx = SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok();
        Self { folder: pins(bpf_dir).join("links"), tcx, attached: BTreeMap::new() }
    }

    pub(crate) fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attached.values()
    }

    pub(crate) fn has(&self, place: &Place) -> bool {
        self.attached.contains_key(place)
    }

    /// Forgets interfaces that are gone (the kernel has detached them) and removes their pins.
    pub(crate) fn forget(&mut self, is_there: impl Fn(&Place) -> bool) {
        self.attached.retain(|place, _| is_there(place));
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let place = name.to_str().and_then(parse_pin);
            if place.is_some_and(|place| !is_there(&place)) {
                // A pin that cannot be removed is tried again next time.
                let _ = fs::remove_file(entry.path());
            }
        }
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
        let kind =
            if place.program == "to_pods" { TcAttachType::Egress } else { TcAttachType::Ingress };
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

fn pin_name(place: &Place) -> String {
    format!("{}-{}", place.ifindex, place.program)
}

fn parse_pin(name: &str) -> Option<Place> {
    let (ifindex, program) = name.split_once('-')?;
    let program = PROGRAMS.into_iter().find(|known| *known == program)?;
    Some(Place { ifindex: ifindex.parse().ok()?, program })
}
