//! What the verdict looks up, in the maps.

use crate::maps::{EXCLUDED_CIDRS, NODE_CONNECTIONS, PORT_RULES};
use aya_ebpf::btf_maps::lpm_trie::Key;
use weir_abi::map::{CIDR_LOOKUP_BITS, CidrKey, FourTuple, PortKey};
use weir_abi::verdict::Tables;

/// The tables for an outbound `connect`.
pub struct Outbound;

/// The tables for an inbound connection, as its client sees it.
pub struct Inbound<'a>(pub &'a FourTuple);

#[inline(always)]
fn has_port_rule(key: &PortKey) -> bool {
    PORT_RULES.get_ptr(key).is_some()
}

impl Tables for Outbound {
    #[inline(always)]
    fn has_port_rule(&self, key: &PortKey) -> bool {
        has_port_rule(key)
    }

    #[inline(always)]
    fn is_excluded_cidr(&self, key: &CidrKey) -> bool {
        EXCLUDED_CIDRS.get(&Key::new(CIDR_LOOKUP_BITS, *key)).is_some()
    }

    #[inline(always)]
    fn is_node_connection(&self) -> bool {
        false
    }
}

impl Tables for Inbound<'_> {
    #[inline(always)]
    fn has_port_rule(&self, key: &PortKey) -> bool {
        has_port_rule(key)
    }

    #[inline(always)]
    fn is_excluded_cidr(&self, _: &CidrKey) -> bool {
        false
    }

    #[inline(always)]
    fn is_node_connection(&self) -> bool {
        NODE_CONNECTIONS.get_ptr(self.0).is_some()
    }
}
