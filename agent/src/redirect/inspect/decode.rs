//! Bytes of map keys, map values and events to the types of [`weir_abi`], field by field in the layout of `#[repr(C)]`.
//!
//! The sizes are those that the ABI asserts, and aya checks them against the map's, so reading never runs out.

use weir_abi::{
    Endpoint, Ip,
    event::Event,
    map::{CidrKey, Config, FlowKey, FlowValue, FourTuple, MAX_POD_IPS, PendingKey, PodConfig, PortKey, SlotConfig},
};

/// A type that crosses the kernel boundary as `N` bytes.
pub(in crate::redirect) trait FromBytes<const N: usize> {
    /// Reads it.
    fn from_bytes(bytes: &[u8; N]) -> Self;
}

/// Takes fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk().expect("the sizes are asserted in weir-abi");
        self.0 = rest;
        *head
    }
    fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.take())
    }
    fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.take())
    }
    fn ip(&mut self) -> Ip {
        Ip(std::array::from_fn(|_| self.u32()))
    }
}

/// Implements [`FromBytes`] from the fields in the order of their declaration.
macro_rules! from_bytes {
    ($($type:ident { $($field:ident: $read:ident),+ $(,)? })+) => {$(
        impl FromBytes<{ size_of::<$type>() }> for $type {
            fn from_bytes(bytes: &[u8; size_of::<$type>()]) -> Self {
                let mut fields = Fields(bytes);
                // Struct expressions evaluate their fields in the order written.
                let value = Self { $($field: fields.$read()),+ };
                debug_assert!(fields.0.is_empty());
                value
            }
        }
    )+};
}

from_bytes! {
    Config {
        node_netns: u64, pods_cgroup: u64, pods_cgroup_level: u32, flags: u32, outbound_port: u32, reserved: u32,
    }
    SlotConfig { netns: u64, flags: u32, listeners: u32 }
    PortKey { slot: u32, port: u16, kind: u16 }
    CidrKey { slot: u32, ip: ip }
    PendingKey { netns: u64, source_ip: ip, target_ip: ip, source_port: u32, target_port: u32 }
    FourTuple { source_ip: ip, destination_ip: ip, source_port: u32, destination_port: u32 }
    FlowKey { slot: u32, rule: u32, ip: ip, port: u32, reserved: u32 }
    FlowValue { count: u64, last_seen: u64 }
    Endpoint { ip: ip, port: u32, role: u32 }
}

impl FromBytes<{ size_of::<PodConfig>() }> for PodConfig {
    fn from_bytes(bytes: &[u8; size_of::<PodConfig>()]) -> Self {
        let mut fields = Fields(bytes);
        let (slot, flags) = (fields.u32(), fields.u32());
        let ips: [Ip; MAX_POD_IPS] = std::array::from_fn(|_| fields.ip());
        Self { slot, flags, ips, redirect_v4: fields.ip(), redirect_v6: fields.ip() }
    }
}

impl FromBytes<{ size_of::<Event>() }> for Event {
    fn from_bytes(bytes: &[u8; size_of::<Event>()]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            time: fields.u64(),
            netns: fields.u64(),
            kind: fields.u32(),
            rule: fields.u32(),
            slot: fields.u32(),
            pid: fields.u32(),
            source_ip: fields.ip(),
            destination_ip: fields.ip(),
            source_port: fields.u32(),
            destination_port: fields.u32(),
            bytes_sent: fields.u64(),
            bytes_received: fields.u64(),
            rtt_us: fields.u32(),
            retransmits: fields.u32(),
            comm: fields.take(),
        }
    }
}

impl FromBytes<4> for u32 {
    fn from_bytes(bytes: &[u8; 4]) -> Self {
        Self::from_ne_bytes(*bytes)
    }
}

impl FromBytes<8> for u64 {
    fn from_bytes(bytes: &[u8; 8]) -> Self {
        Self::from_ne_bytes(*bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    fn counting<const N: usize>() -> [u8; N] {
        std::array::from_fn(|i| i as u8)
    }

    fn u32_at(offset: usize) -> u32 {
        u32::from_ne_bytes(std::array::from_fn(|i| (offset + i) as u8))
    }

    fn ip_at(offset: usize) -> Ip {
        Ip(std::array::from_fn(|word| u32_at(offset + 4 * word)))
    }

    #[test]
    fn fields_are_read_where_repr_c_puts_them() {
        let pod = PodConfig::from_bytes(&counting());
        assert_eq!(pod.slot, u32_at(offset_of!(PodConfig, slot)));
        assert_eq!(pod.ips[3], ip_at(offset_of!(PodConfig, ips) + 3 * 16));
        assert_eq!(pod.redirect_v4, ip_at(offset_of!(PodConfig, redirect_v4)));
        assert_eq!(pod.redirect_v6, ip_at(offset_of!(PodConfig, redirect_v6)));

        let config = Config::from_bytes(&counting());
        assert_eq!(config.pods_cgroup_level, u32_at(offset_of!(Config, pods_cgroup_level)));
        assert_eq!(config.flags, u32_at(offset_of!(Config, flags)));
        assert_eq!(config.outbound_port, u32_at(offset_of!(Config, outbound_port)));

        let pending = PendingKey::from_bytes(&counting());
        assert_eq!(pending.target_ip, ip_at(offset_of!(PendingKey, target_ip)));
        assert_eq!(pending.target_port, u32_at(offset_of!(PendingKey, target_port)));

        let tuple = FourTuple::from_bytes(&counting());
        assert_eq!(tuple.destination_ip, ip_at(offset_of!(FourTuple, destination_ip)));
        assert_eq!(tuple.destination_port, u32_at(offset_of!(FourTuple, destination_port)));

        let flow = FlowKey::from_bytes(&counting());
        assert_eq!((flow.rule, flow.port), (u32_at(offset_of!(FlowKey, rule)), u32_at(offset_of!(FlowKey, port))));

        let event = Event::from_bytes(&counting());
        assert_eq!(event.pid, u32_at(offset_of!(Event, pid)));
        assert_eq!(event.destination_ip, ip_at(offset_of!(Event, destination_ip)));
        assert_eq!(event.retransmits, u32_at(offset_of!(Event, retransmits)));
        assert_eq!(event.comm[0], offset_of!(Event, comm) as u8);
    }
}
