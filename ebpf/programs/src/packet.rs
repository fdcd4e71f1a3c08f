//! A packet in the kernel: direct access, checksum helpers, routes and ways out.

use core::hint::black_box;
use core::mem::size_of;
use core::ptr::null_mut;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_SHOT,
    TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_fib_lookup as FibLookup,
    bpf_redir_neigh,
};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_fib_lookup, bpf_get_socket_cookie, bpf_l4_csum_replace, bpf_redirect,
    bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_adjust_room, bpf_skb_change_tail,
    bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use sluice_abi::{Held, MARK_TRANSLATED, MAX_HELD_BYTES};
use sluice_core::wire::{ETHERNET_LEN, MAX_EXTENSIONS, SCTP, TCP, UDP, Wire};
use sluice_core::{Action, Hook, LOOPBACK, NextHop, Packet};

/// Headers that are read directly at the most: Ethernet, IPv4 with all options, TCP.
const HEADERS: u32 = 14 + 60 + 20;
/// Headers that are nearly always linear: Ethernet, IPv4 or IPv6 without more, TCP. Only a packet with
/// less is pulled: with payload in its linear part a sender's clone would be copied at the first write.
const HEADERS4: u32 = 14 + 20 + 20;
const HEADERS6: u32 = 14 + 40 + 20;
/// The same where other headers may stand between, and fragment and ICMPv6 header, and a quoted packet.
const HEADERS6_EXTENDED: u32 = HEADERS6 + 2 * (40 + 8) + MAX_EXTENSIONS as u32;
/// Offset of IPv6's next header; hop limit is the octet behind.
const NEXT_HEADER: usize = 14 + 6;
/// Bits of a VLAN's number in its tag (IEEE 802.1Q); 0 is none, the tag is for its priority.
const VLAN_ID: u32 = 0x0fff;
/// The EtherType of IPv6 as `__sk_buff` has it.
const ETH_P_IPV6_BE: u32 = 0x86dd_u16.to_be() as u32;
/// The EtherType of a VLAN's tag.
const ETH_P_8021Q: u16 = 0x8100;
/// `PACKET_HOST` (linux/if_packet.h).
const PACKET_HOST: u32 = 0;
/// What every way takes (RFC 8200 section 5).
const LEAST_MTU: u16 = 1280;
/// Segments of different lengths, which only the kernel knows (linux/skbuff.h): SCTP's.
const GSO_BY_FRAGS: u32 = 0xffff;
/// Words of a UDP header.
const UDP_WORDS: u8 = 2;
/// Offset of the octet with the length of a TCP header.
const TCP_OFFSET: usize = 12;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Since 6.16: the checksum of an IPv6 packet as a whole does not change with its addresses.
const BPF_F_IPV6: u64 = 1 << 7;
const EINVAL: i64 = -22;

/// A `__sk_buff` whose headers are linear.
pub(crate) struct Skb {
    skb: *mut __sk_buff,
    hop: NextHop,
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(ctx: TcContext) -> Self {
        let this = Self { skb: ctx.skb.skb, hop: NextHop::default() };
        // SAFETY: reads of the context that the kernel passed.
        let (len, linear, protocol) = unsafe {
            let skb = &*this.skb;
            (skb.len, skb.data_end.wrapping_sub(skb.data), skb.protocol)
        };
        let (needed, most) = if protocol != ETH_P_IPV6_BE {
            (HEADERS4, HEADERS)
        } else if this.at::<[u8; 2]>(NEXT_HEADER).is_some_and(|next| {
            // SAFETY: in bounds.
            let [next, _] = unsafe { *next };
            matches!(next, TCP | UDP | SCTP)
        }) {
            (HEADERS6, HEADERS)
        } else {
            (HEADERS6_EXTENDED, HEADERS6_EXTENDED)
        };
        if linear < needed && linear < len {
            let wanted = if len < most { len } else { most };
            // SAFETY: a valid context; packet pointers are taken anew at each access.
            unsafe { bpf_skb_pull_data(this.skb, wanted) };
        }
        this
    }

    /// Does what was decided; the classifier's return value.
    #[inline(always)]
    pub(crate) fn finish(self, action: Action, hook: Hook) -> i32 {
        match action {
            // Not TC_ACT_OK: other programs on the same hook have their turn.
            Action::Pass => TC_ACT_UNSPEC,
            Action::Drop => TC_ACT_SHOT as i32,
            Action::Peer => {
                // SAFETY: helpers on a valid context. Without PACKET_HOST, 5.10 drops the packet.
                unsafe {
                    bpf_skb_change_type(self.skb, PACKET_HOST);
                    bpf_redirect_peer(self.hop.ifindex, 0) as i32
                }
            }
            Action::Veth => {
                // SAFETY: a helper without pointers.
                unsafe { bpf_redirect(self.hop.ifindex, 0) as i32 }
            }
            Action::Neighbour if self.hop.ifindex == LOOPBACK => {
                // SAFETY: a helper without pointers.
                unsafe { bpf_redirect(LOOPBACK, BPF_F_INGRESS.into()) as i32 }
            }
            Action::Neighbour if matches!(hook, Hook::ToNetwork) => {
                // The packet has a route, to the service's address: the kernel has to find another, or
                // it follows that one after waiting for the neighbour (net/core/neighbour.c).
                // SAFETY: a helper that takes no parameters to be absent.
                unsafe { bpf_redirect_neigh(self.hop.ifindex, null_mut(), 0, 0) as i32 }
            }
            Action::Neighbour => neighbour(&self.hop),
            Action::Back => {
                // At egress, "back" is up into the node's own stack.
                let egress = matches!(hook, Hook::ToNetwork | Hook::ToPods);
                let flags = if egress { u64::from(BPF_F_INGRESS) } else { 0 };
                // SAFETY: a helper without pointers.
                unsafe { bpf_redirect(self.ifindex(), flags) as i32 }
            }
        }
    }

    /// Records what was decided, for `cargo xtask build-ebpf --log`.
    #[cfg(feature = "log")]
    pub(crate) fn log(&self, action: Action) {
        let ctx = TcContext::new(self.skb);
        aya_log_ebpf::info!(&ctx, "interface {}: action {}", self.ifindex(), action as u32);
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        // SAFETY: reads of the context that the kernel passed.
        let (data, end) = unsafe { ((*self.skb).data as usize, (*self.skb).data_end as usize) };
        if data + offset + size_of::<T>() > end {
            return None;
        }
        Some((data + offset) as *mut T)
    }

    #[inline(always)]
    fn checksum(&self, check: usize, from: u64, to: u64, flags: u64) -> i64 {
        // SAFETY: a helper on a valid context; it checks the offset itself.
        unsafe { bpf_l4_csum_replace(self.skb, check as u32, from, to, flags) }
    }
}

#[inline(always)]
fn mangled(udp: bool) -> u64 {
    if udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 }
}

impl Packet for Skb {
    #[inline(always)]
    fn ether_type(&self) -> u16 {
        // SAFETY: reads of the context that the kernel passed.
        let (protocol, tagged, tag) =
            unsafe { ((*self.skb).protocol, (*self.skb).vlan_present, (*self.skb).vlan_tci) };
        if tagged != 0 && tag & VLAN_ID != 0 {
            // Of a network that the interface only carries; it comes by again without its tag, if at all.
            return ETH_P_8021Q;
        }
        u16::from_be(protocol as u16)
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn is_own(&self) -> bool {
        // SAFETY: as above; the pointer is only compared.
        unsafe { !(*self.skb).__bindgen_anon_2.sk.is_null() }
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: a helper on a valid context.
        unsafe { bpf_get_socket_cookie(self.skb.cast()) }
    }

    #[inline(always)]
    fn blur(&self, value: u32) -> u32 {
        // SAFETY: a read of the context that the kernel passed.
        let any = unsafe { (*self.skb).len };
        black_box(value ^ any) ^ any
    }

    #[inline(always)]
    fn is_marked(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.skb).mark & MARK_TRANSLATED != 0 }
    }

    #[inline(always)]
    fn mark(&mut self) {
        // SAFETY: `mark` is writable in classifiers.
        unsafe { (*self.skb).mark |= MARK_TRANSLATED }
    }

    #[inline(always)]
    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        // SAFETY: in bounds (the verifier proves it). `Wire` types are plain bytes; BPF has
        // unaligned loads on the machines we support, and the verifier refuses them elsewhere.
        self.at::<T>(offset).map(|at| unsafe { *at })
    }

    #[inline(always)]
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as for `load`.
        self.at::<T>(offset).map(|at| unsafe { *at = value })
    }

    #[inline(always)]
    fn fix_addresses(&mut self, check: usize, diff: u32, udp: bool, ipv6: bool) -> Option<()> {
        let flags = u64::from(BPF_F_PSEUDO_HDR) | mangled(udp);
        let mut result = EINVAL;
        if ipv6 {
            result = self.checksum(check, 0, diff.into(), flags | BPF_F_IPV6);
        }
        if result == EINVAL {
            // IPv4, or a kernel that does not know the flag.
            result = self.checksum(check, 0, diff.into(), flags);
        }
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn fix_ports(&mut self, check: usize, old: u32, new: u32, udp: bool) -> Option<()> {
        let result = self.checksum(check, old.into(), new.into(), 4 | mangled(udp));
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn fix_body(&mut self, check: usize, diff: u32) -> Option<()> {
        (self.checksum(check, 0, diff.into(), 0) == 0).then_some(())
    }

    #[inline(always)]
    fn make_room(&mut self, keep: usize, room: usize) -> Option<()> {
        // SAFETY: helpers on a valid context; packet pointers are taken anew at each access. The tail
        // is only cut: the helper would also add to it.
        unsafe {
            ((*self.skb).len as usize >= keep
                && bpf_skb_change_tail(self.skb, keep as u32, 0) == 0
                && bpf_skb_adjust_room(self.skb, room as i32, BPF_ADJ_ROOM_MAC, 0) == 0)
                .then_some(())
        }
    }

    #[inline(always)]
    fn copy(&self, to: &mut Held) -> Option<()> {
        // SAFETY: a read of the context that the kernel passed.
        let len = held_len(unsafe { (*self.skb).len })?;
        (to.len, to.ifindex) = (len, self.ifindex());
        // SAFETY: a helper that writes `len` octets, no more than there are.
        let result =
            unsafe { bpf_skb_load_bytes(self.skb.cast(), 0, to.bytes.as_mut_ptr().cast(), len) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn become_copy(&mut self, of: &Held) -> Option<()> {
        let len = held_len(of.len)?;
        let bytes = of.bytes.as_ptr().cast();
        // SAFETY: helpers on a valid context; packet pointers are taken anew at each access. `len`
        // octets are read, no more than there are.
        unsafe {
            (bpf_skb_change_tail(self.skb, len, 0) == 0
                && bpf_skb_store_bytes(self.skb, 0, bytes, len, BPF_F_RECOMPUTE_CSUM.into()) == 0)
                .then_some(())
        }
    }

    #[inline(always)]
    fn again(&mut self, ifindex: u32) {
        // SAFETY: a helper on a valid context.
        unsafe { bpf_clone_redirect(self.skb, ifindex, BPF_F_INGRESS.into()) };
    }

    #[inline(always)]
    fn hop(&mut self) -> &mut NextHop {
        &mut self.hop
    }

    #[inline(always)]
    fn route(&mut self, src: &[u32; 4], class_be: u32, transport: (u8, usize)) -> bool {
        self.hop.ifindex = self.ifindex();
        let len = length(self.skb, transport.1, transport.0 == TCP);
        route(self.skb, src, &mut self.hop, class_be, len)
    }
}

/// The length of a packet that is held. No packet is shorter than its Ethernet header; two comparisons
/// instead of one for a range, which would be computed by a subtraction that 5.10 learns nothing from.
#[inline(always)]
fn held_len(len: u32) -> Option<u32> {
    (len as usize <= MAX_HELD_BYTES).then(|| len.max(ETHERNET_LEN as u32))
}

/// Sends the packet to a neighbour, whose link address the kernel finds and keeps.
#[inline(never)]
fn neighbour(hop: &NextHop) -> i32 {
    // SAFETY: all bits zero are a valid value.
    let mut params: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    params.nh_family = if hop.ipv6 { AF_INET6 } else { AF_INET }.into();
    params.__bindgen_anon_1.ipv6_nh = hop.address;
    let len = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: a helper that reads `len` bytes of an initialised structure.
    unsafe { bpf_redirect_neigh(hop.ifindex, &raw mut params, len, 0) as i32 }
}

/// Asks the routes for the way to `hop.address`, and puts the neighbour and its interface there.
/// `len` is the packet's, of 16 bits; `hop.mtu` is then what the way takes, if that is less than the packet needs, else 0.
///
/// A function of its own: the stack of a program has 512 bytes.
#[inline(never)]
fn route(skb: *mut __sk_buff, src: &[u32; 4], hop: &mut NextHop, class: u32, len: u32) -> bool {
    // SAFETY: all bits zero are a valid value.
    let mut params: FibLookup = unsafe { core::mem::zeroed() };
    // Kernels before 5.12 know nothing of it, and look only at the interface (is_skb_forwardable).
    params.__bindgen_anon_1.tot_len = len as u16;
    params.family = if hop.ipv6 { AF_INET6 } else { AF_INET };
    params.ifindex = hop.ifindex;
    // IPv4's type of service is the first octet of this word; IPv6's has the version above it.
    let no_version = 0x0fff_ffff_u32.to_be();
    params.__bindgen_anon_2.flowinfo = if hop.ipv6 { class & no_version } else { class.to_le() };
    params.__bindgen_anon_3.ipv6_src = *src;
    params.__bindgen_anon_4.ipv6_dst = hop.address;
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: a helper that reads and writes `size` bytes of an initialised structure.
    let result = unsafe { bpf_fib_lookup(skb.cast(), &raw mut params, size, 0) };
    // A neighbour that is not known yet: `bpf_redirect_neigh` asks for it and keeps the packet meanwhile.
    // The stack would not do: it takes no packet from outside that comes from the node's own address.
    hop.mtu = 0;
    if result == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED) {
        // SAFETY: every field of the union is plain bytes.
        let mtu = unsafe { params.__bindgen_anon_1.mtu_result };
        hop.mtu = if u32::from(mtu) < len { mtu } else { LEAST_MTU };
        return false;
    }
    if result != i64::from(BPF_FIB_LKUP_RET_SUCCESS)
        && result != i64::from(BPF_FIB_LKUP_RET_NO_NEIGH)
    {
        return false;
    }
    // SAFETY: every field of the union is plain bytes.
    hop.address = unsafe { params.__bindgen_anon_4.ipv6_dst };
    hop.ifindex = params.ifindex;
    hop.ipv6 = params.family == AF_INET6;
    true
}

/// Octets of a packet, or of each segment that it is yet to be cut into; at the most what 16 bits can say.
/// 0 where they differ.
#[inline(never)]
fn length(skb: *mut __sk_buff, transport: usize, tcp: bool) -> u32 {
    // SAFETY: reads of the context that the kernel passed.
    let (len, segment) = unsafe { ((*skb).len, (*skb).gso_size) };
    let mut len = len.wrapping_sub(ETHERNET_LEN as u32);
    if segment == GSO_BY_FRAGS {
        return 0;
    }
    if segment != 0 {
        // Each gets the headers: TCP's says how long it is, in words of its high nibble.
        let mut words = UDP_WORDS << 4;
        if tcp {
            let at = (transport + TCP_OFFSET) as u32;
            // SAFETY: a helper that writes one octet, or none.
            unsafe { bpf_skb_load_bytes(skb.cast(), at, (&raw mut words).cast(), 1) };
        }
        len = segment + (transport - ETHERNET_LEN) as u32 + u32::from(words >> 4) * 4;
    }
    if len > u32::from(u16::MAX) { u16::MAX.into() } else { len }
}
