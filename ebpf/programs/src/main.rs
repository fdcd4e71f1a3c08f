//! The kernel programs. Entries only: packets are decided in `sluice-core`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(unsafe_code, reason = "helpers, packet and map memory; each use says why it is sound")]

#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod socket;

#[cfg(target_arch = "bpf")]
mod entries {
    use aya_ebpf::macros::classifier;
    use aya_ebpf::programs::TcContext;
    use sluice_core::{Hook, process};

    use crate::maps::Kernel;
    use crate::packet::Skb;

    /// Ingress of a pod's host-side veth, and of kube-bridge.
    #[classifier]
    pub(crate) fn from_pod(ctx: TcContext) -> i32 {
        run(ctx, Hook::FromPod)
    }

    /// Ingress of an uplink.
    #[classifier]
    pub(crate) fn from_network(ctx: TcContext) -> i32 {
        run(ctx, Hook::FromNetwork)
    }

    /// Egress of kube-bridge.
    #[classifier]
    pub(crate) fn to_pods(ctx: TcContext) -> i32 {
        run(ctx, Hook::ToPods)
    }

    /// Egress of an uplink, and of loopback where a service is to be found at the node's own addresses
    /// that no socket hook serves.
    #[classifier]
    pub(crate) fn to_network(ctx: TcContext) -> i32 {
        run(ctx, Hook::ToNetwork)
    }

    /// Returns the low 32 bits of jiffies: user space's view of the clock in the flow table.
    #[classifier]
    pub(crate) fn clock(_: TcContext) -> i32 {
        crate::maps::jiffies() as i32
    }

    #[inline(always)]
    fn run(ctx: TcContext, hook: Hook) -> i32 {
        let mut skb = Skb::new(ctx);
        let action = process(&mut skb, &mut Kernel::new(), hook);
        #[cfg(feature = "log")]
        skb.log(action);
        skb.finish(action, hook)
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
