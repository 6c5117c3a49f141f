//! Keys and values as the maps take them: their fields in the layout of `#[repr(C)]`, which has no padding here.
//!
//! By hand, field by field, because aya's own conversion wants an `unsafe` promise for types of another crate.

use weir_abi::{
    Endpoint, Ip,
    map::{CidrKey, Config, PodConfig, PortKey, SlotConfig},
};

/// A type that crosses the kernel boundary as `N` bytes.
pub(super) trait ToBytes<const N: usize> {
    /// Its bytes.
    fn to_bytes(&self) -> [u8; N];
}

/// Appends fields; the sizes are those that the ABI asserts.
struct Fields<const N: usize> {
    bytes: [u8; N],
    filled: usize,
}

impl<const N: usize> Fields<N> {
    fn new() -> Self {
        Self { bytes: [0; N], filled: 0 }
    }

    fn put(mut self, field: &[u8]) -> Self {
        self.bytes[self.filled..self.filled + field.len()].copy_from_slice(field);
        self.filled += field.len();
        self
    }

    fn u16(self, value: u16) -> Self {
        self.put(&value.to_ne_bytes())
    }

    fn u32(self, value: u32) -> Self {
        self.put(&value.to_ne_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.put(&value.to_ne_bytes())
    }

    fn ip(self, ip: &Ip) -> Self {
        ip.0.iter().fold(self, |fields, word| fields.u32(*word))
    }

    fn done(self) -> [u8; N] {
        debug_assert_eq!(self.filled, N, "every byte is a field's");
        self.bytes
    }
}

impl ToBytes<{ size_of::<Config>() }> for Config {
    fn to_bytes(&self) -> [u8; size_of::<Config>()] {
        Fields::new()
            .u64(self.node_netns)
            .u64(self.pods_cgroup)
            .u32(self.pods_cgroup_level)
            .u32(self.flags)
            .u32(self.outbound_port)
            .u32(self.reserved)
            .done()
    }
}

impl ToBytes<{ size_of::<PodConfig>() }> for PodConfig {
    fn to_bytes(&self) -> [u8; size_of::<PodConfig>()] {
        let fields = self.ips.iter().fold(Fields::new().u32(self.slot).u32(self.flags), Fields::ip);
        fields.ip(&self.redirect_v4).ip(&self.redirect_v6).done()
    }
}

impl ToBytes<{ size_of::<SlotConfig>() }> for SlotConfig {
    fn to_bytes(&self) -> [u8; size_of::<SlotConfig>()] {
        Fields::new().u64(self.netns).u32(self.flags).u32(self.listeners).done()
    }
}

impl ToBytes<{ size_of::<PortKey>() }> for PortKey {
    fn to_bytes(&self) -> [u8; size_of::<PortKey>()] {
        Fields::new().u32(self.slot).u16(self.port).u16(self.kind).done()
    }
}

impl ToBytes<{ size_of::<CidrKey>() }> for CidrKey {
    fn to_bytes(&self) -> [u8; size_of::<CidrKey>()] {
        Fields::new().u32(self.slot).ip(&self.ip).done()
    }
}

impl ToBytes<{ size_of::<Endpoint>() }> for Endpoint {
    fn to_bytes(&self) -> [u8; size_of::<Endpoint>()] {
        Fields::new().ip(&self.ip).u32(self.port).u32(self.role).done()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::inspect::decode::FromBytes, *};
    use weir_abi::map::MAX_POD_IPS;

    #[test]
    fn what_is_written_is_what_is_read() {
        let ip = |first| Ip([first, 2, 3, 4]);
        let config = Config {
            node_netns: 1 << 40,
            pods_cgroup: 2 << 40,
            pods_cgroup_level: 3,
            flags: 4,
            outbound_port: 5,
            reserved: 0,
        };
        assert_eq!(Config::from_bytes(&config.to_bytes()), config);
        let mut ips = [Ip::UNSPECIFIED; MAX_POD_IPS];
        (ips[0], ips[MAX_POD_IPS - 1]) = (ip(7), ip(8));
        let pod = PodConfig { slot: 1, flags: 2, ips, redirect_v4: ip(9), redirect_v6: ip(10) };
        assert_eq!(PodConfig::from_bytes(&pod.to_bytes()), pod);
        let slot = SlotConfig { netns: 1 << 50, flags: 3, listeners: 16 };
        assert_eq!(SlotConfig::from_bytes(&slot.to_bytes()), slot);
        let port = PortKey { slot: 7, port: 8080, kind: 3 };
        assert_eq!(PortKey::from_bytes(&port.to_bytes()), port);
        let cidr = CidrKey { slot: 7, ip: ip(1) };
        assert_eq!(CidrKey::from_bytes(&cidr.to_bytes()), cidr);
        let endpoint = Endpoint { ip: ip(5), port: 80, role: 2 };
        assert_eq!(Endpoint::from_bytes(&endpoint.to_bytes()), endpoint);
    }
}
