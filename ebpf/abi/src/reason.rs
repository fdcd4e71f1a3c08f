//! Every way out of a program, counted per CPU under its number.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $drop:literal;)*) => {
        /// Why a packet left the program the way it did.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name),* }

        impl Reason {
            /// All reasons; a reason's number is its index here.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Name in metrics and views.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// Whether the packet was dropped.
            #[must_use]
            pub const fn is_drop(self) -> bool {
                match self { $(Self::$name => $drop),* }
            }
        }
    };
}

reasons! {
    /// Neither IPv4 nor IPv6.
    NotIp = "not_ip", false;
    /// IP, but neither TCP nor UDP.
    OtherProtocol = "other_protocol", false;
    /// Nothing of ours: no flow, no frontend.
    NotService = "not_service", false;
    /// A header is cut short or contradicts itself; the stack decides.
    Malformed = "malformed", false;
    /// A fragment whose ports are not known, and that can't be held; the stack decides.
    Fragment = "fragment", false;
    /// A fragment that came before the first of its datagram: held until that comes, then seen again.
    FragmentHeld = "fragment_held", false;
    /// Translated by an earlier hook on its way through the stack.
    AlreadyTranslated = "already_translated", false;
    /// Client to backend, into a pod of this node.
    ForwardPeer = "forward_peer", false;
    /// Client to backend, routed to another node.
    ForwardRoute = "forward_route", false;
    /// Client to backend, left to the stack.
    ForwardStack = "forward_stack", false;
    /// Backend to client, into a pod of this node.
    ReplyPeer = "reply_peer", false;
    /// Backend to client, routed.
    ReplyRoute = "reply_route", false;
    /// Backend to client, left to the stack.
    ReplyStack = "reply_stack", false;
    /// The frontend has endpoints, but none that its traffic policy allows: silence.
    NoEndpoints = "no_endpoints", true;
    /// The frontend has no endpoint, or the service address no such port: refused.
    Refused = "refused", true;
    /// As `Refused`, but too many have been refused in this second: silence.
    RefusedSilently = "refused_silently", true;
    /// The client is outside the source ranges of a load balancer's address.
    SourceRange = "source_range", true;
    /// An address of the service range that no service has.
    NoService = "no_service", true;
    /// TCP towards a frontend, not a SYN, of no known flow.
    NoFlow = "no_flow", true;
    /// A slot names an unused backend.
    StaleSlot = "stale_slot", true;
    /// No source port was free for a flow that needs one.
    NoPort = "no_port", true;
    /// The node's own address is not known, but the flow needs it as its source.
    NoNodeAddress = "no_node_address", true;
    /// The flow table took no entry.
    FlowTable = "flow_table", true;
    /// There is no way from this node's own process to the backend.
    NoRoute = "no_route", true;
    /// The packet could not be rewritten.
    Rewrite = "rewrite", true;
}
