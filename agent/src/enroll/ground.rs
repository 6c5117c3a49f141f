//! Doing it: one pod in the kernel and in its network namespace. Everything here blocks.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use weir_abi::{
    Ip,
    map::{INBOUND_PORT, MAX_POD_IPS, OUTBOUND_PORT, PodConfig, SlotConfig, pod_flag},
    verdict::Direction,
};
use weir_proto::handoff::v1 as handoff;

use super::policy::Policy;
use crate::{
    handoff::ListenersHandedBack,
    keeper::Keeper,
    netns::{self, AddressChanges, Contents, Netns, PodListener},
    reason::Reason,
    redirect::{self, Redirect},
    sources::{PodNetns, PodSpec},
};

/// weir's ports in a pod, and what says that they were reserved.
const RESERVED: [(u16, u32); 2] =
    [(OUTBOUND_PORT, pod_flag::RESERVED_OUTBOUND), (INBOUND_PORT, pod_flag::RESERVED_INBOUND)];
/// What says that a sysctl was changed.
const SET: u32 = pod_flag::RESERVED_OUTBOUND | pod_flag::RESERVED_INBOUND | pod_flag::TIME_WAIT_REUSE;

/// Undoes what these bits of [`pod_flag`] say was changed of a namespace's sysctls. Blocks.
pub fn restore_sysctls(netns: &Netns, proc: &Path, set: u32) -> Result<(), netns::Error> {
    let ports: Vec<u16> = RESERVED.iter().filter(|(_, bit)| set & bit != 0).map(|(port, _)| *port).collect();
    let released = if ports.is_empty() { Ok(()) } else { netns.release_ports(proc, &ports) };
    if set & pod_flag::TIME_WAIT_REUSE != 0 {
        netns.restore_time_wait(proc)?;
    }
    released
}

/// Why a pod could not be enrolled or changed: its pending reason.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Netns(#[from] netns::Error),
    #[error(transparent)]
    Redirect(#[from] redirect::Error),
    #[error("{0}")]
    Unknown(Reason),
    #[error("the pod has no address yet")]
    NoAddress,
    #[error("its network namespace was replaced meanwhile")]
    Replaced,
}

impl From<Error> for Reason {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Unknown(reason) => reason,
            Error::NoAddress | Error::Replaced => Self::starting(text),
            Error::Netns(_) | Error::Redirect(_) => Self::node(text),
        }
    }
}

/// What enrolling works with.
#[derive(Debug)]
pub struct Ground {
    /// The kernel side.
    pub redirect: Arc<Redirect>,
    /// Listening sockets per pod, direction and family.
    pub workers: u32,
    /// Where procfs is mounted writable.
    pub proc: PathBuf,
    /// Holds copies of the pods' listening sockets while no agent is there.
    pub keeper: Keeper,
}

/// A pod that the kernel redirects.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) spec: PodSpec,
    pub(super) policy: Policy,
    pub(super) netns: Arc<Netns>,
    pub(super) cookie: u64,
    pub(super) slot: u32,
    /// All of its addresses.
    pub(super) ips: Vec<IpAddr>,
    /// Those that its connections are rewritten to: one a family at most.
    pub(super) redirect_ips: Vec<IpAddr>,
    /// Empty for a pod that was taken over, until its sockets come back or are made anew.
    pub(super) listeners: Vec<PodListener>,
    pub(super) enrolled: SystemTime,
    /// What was changed of its namespace's sysctls, as bits of [`pod_flag`].
    pub(super) set: u32,
    /// Tells of changes since its addresses were read, until somebody takes it to listen.
    pub(super) changes: Option<AddressChanges>,
}

impl Pod {
    fn flags(&self) -> u32 {
        flags(&self.policy)
    }

    fn pod_config(&self) -> PodConfig {
        let mut ips = [Ip::UNSPECIFIED; MAX_POD_IPS];
        // Those that connections are rewritten to must be among them: the pod may not be redirected to itself twice.
        let first = self.redirect_ips.iter().chain(self.ips.iter().filter(|ip| !self.redirect_ips.contains(ip)));
        for (place, ip) in ips.iter_mut().zip(first) {
            *place = (*ip).into();
        }
        let of = |v4: bool| {
            self.redirect_ips.iter().find(|ip| ip.is_ipv4() == v4).map_or(Ip::UNSPECIFIED, |ip| (*ip).into())
        };
        PodConfig {
            slot: self.slot,
            flags: self.flags() | self.set,
            ips,
            redirect_v4: of(true),
            redirect_v6: of(false),
        }
    }

    fn slot_config(&self) -> SlotConfig {
        let listeners = self.inbound().len() as u32;
        SlotConfig { netns: self.cookie, flags: self.flags(), listeners }
    }

    fn inbound(&self) -> Vec<&PodListener> {
        self.listeners.iter().filter(|listener| listener.direction == Direction::Inbound).collect()
    }
}

fn open(spec: &PodSpec) -> Result<Arc<Netns>, Error> {
    match &spec.netns {
        PodNetns::Path(path) => Ok(Arc::new(Netns::open(path)?)),
        PodNetns::Held(netns) => Ok(netns.clone()),
        PodNetns::Unknown(reason) | PodNetns::Absent(reason) => Err(Error::Unknown(reason.clone())),
    }
}

fn flags(policy: &Policy) -> u32 {
    pod_flag::ENROLLED | if policy.fail_open { pod_flag::FAIL_OPEN } else { 0 }
}

/// One address a family: one that connections are rewritten to already if the pod still has it, else its first.
fn redirect_ips(ips: &[IpAddr], present: &[IpAddr]) -> Vec<IpAddr> {
    [true, false]
        .into_iter()
        .filter_map(|v4| {
            let of_family = |ip: &&IpAddr| ip.is_ipv4() == v4;
            let kept = present.iter().filter(of_family).find(|ip| ips.contains(ip));
            kept.or_else(|| ips.iter().find(of_family)).copied()
        })
        .collect()
}

impl Ground {
    /// Enrolls a pod into a free slot: sockets, slot, `sk_lookup`, `ENROLLED`. On failure nothing stays.
    pub(super) fn enroll(&self, spec: PodSpec, policy: Policy, slot: u32) -> Result<Pod, Error> {
        let netns = open(&spec)?;
        let changes = Some(AddressChanges::of(&netns)?);
        let Contents { cookie, ips } = netns.look()?;
        let redirect_ips = redirect_ips(&ips, &[]);
        if redirect_ips.is_empty() {
            return Err(Error::NoAddress);
        }
        self.warn_of(&spec, &ips);
        let set = self.set_sysctls(&spec, &netns);
        let enrolled = SystemTime::now();
        let listeners = Vec::new();
        let mut pod = Pod { spec, policy, netns, cookie, slot, ips, redirect_ips, listeners, enrolled, set, changes };
        if let Err(error) = self.open_up(&mut pod) {
            self.restore_sysctls(&pod);
            return Err(error);
        }
        Ok(pod)
    }

    /// Makes the pod's sockets, and redirects to them.
    fn open_up(&self, pod: &mut Pod) -> Result<(), Error> {
        pod.listeners = netns::listeners(&pod.netns, &pod.redirect_ips, self.workers)?;
        self.insert(pod).inspect_err(|_| {
            if let Err(error) = self.redirect.release(pod.slot) {
                tracing::error!(slot = pod.slot, %error, "a slot is not clean after a failed enrolment");
            }
        })?;
        Ok(())
    }

    /// Reserves weir's ports in the pod's namespace, and lets ports in TIME_WAIT be used again. What of that was not so, as
    /// bits of [`pod_flag`].
    fn set_sysctls(&self, spec: &PodSpec, netns: &Netns) -> u32 {
        let reserved = match netns.reserve_ports(&self.proc, &[OUTBOUND_PORT, INBOUND_PORT]) {
            Ok(added) => RESERVED.iter().filter(|(port, _)| added.contains(port)).map(|(_, bit)| bit).sum(),
            Err(error) => {
                // They lie outside the default range of source ports; the pod may have widened it.
                tracing::warn!(pod = %spec.full_name(), %error, "weir's ports are not reserved in the pod");
                0
            }
        };
        reserved | self.reuse_time_wait(spec, netns)
    }

    fn reuse_time_wait(&self, spec: &PodSpec, netns: &Netns) -> u32 {
        match netns.reuse_time_wait(&self.proc) {
            Ok(changed) => u32::from(changed) * pod_flag::TIME_WAIT_REUSE,
            Err(error) => {
                tracing::warn!(pod = %spec.full_name(), %error, "the pod's ports in TIME_WAIT are not used again");
                0
            }
        }
    }

    /// Undoes what was changed of the sysctls of a pod's namespace.
    pub(super) fn restore_sysctls(&self, pod: &Pod) {
        if let Err(error) = restore_sysctls(&pod.netns, &self.proc, pod.set) {
            tracing::warn!(pod = %pod.spec.full_name(), %error, "weir's sysctls stay in the pod");
        }
    }

    /// The same for a namespace of which only the cookie is known; `set` has bits of [`pod_flag`].
    pub(super) fn restore_sysctls_at(&self, cookie: u64, set: u32) {
        if set & SET == 0 {
            return;
        }
        let is_it = |netns: &Netns| netns.look().is_ok_and(|contents| contents.cookie == cookie);
        // One that is gone needs nothing.
        let Some(netns) = netns::all(&self.proc).into_iter().find(is_it) else { return };
        if let Err(error) = restore_sysctls(&netns, &self.proc, set) {
            tracing::warn!(netns = cookie, %error, "weir's sysctls stay in a pod that it let go of");
        }
    }

    fn insert(&self, pod: &Pod) -> Result<(), redirect::Error> {
        self.fill_slot(pod)?;
        // Of the slot's last pod nothing may be left, whatever went wrong when it was taken out: a port or CIDR too many
        // lets connections pass.
        let present = self.redirect.rules(pod.slot)?;
        self.redirect.change_rules(pod.slot, &present, &pod.policy.rules())?;
        self.redirect.steer(pod.slot, &pod.netns)?;
        self.redirect.enroll(pod.cookie, &pod.pod_config())
    }

    fn fill_slot(&self, pod: &Pod) -> Result<(), redirect::Error> {
        let inbound: Vec<_> = pod.inbound().into_iter().map(|listener| listener.socket.clone()).collect();
        self.redirect.fill_slot(pod.slot, &pod.slot_config(), &inbound)
    }

    fn warn_of(&self, spec: &PodSpec, ips: &[IpAddr]) {
        if ips.len() > MAX_POD_IPS {
            tracing::warn!(
                pod = %spec.full_name(), addresses = ips.len(), known = MAX_POD_IPS,
                "the pod has more addresses than weir knows of one; connections to the others count as outbound"
            );
        }
    }

    /// Takes over a pod that an earlier agent enrolled: it keeps its slot and is redirected all the time, its
    /// `sk_lookup` instance gets this agent's program. Without `policy` the kernel's rules stay.
    pub(super) fn adopt(
        &self,
        spec: PodSpec,
        policy: Option<Policy>,
        enrolled_cookie: u64,
        present: &PodConfig,
    ) -> Result<Pod, Error> {
        let netns = open(&spec)?;
        let changes = Some(AddressChanges::of(&netns)?);
        let Contents { cookie, mut ips } = netns.look()?;
        if cookie != enrolled_cookie {
            return Err(Error::Replaced);
        }
        let slot = present.slot;
        let known: Vec<IpAddr> =
            present.ips.iter().filter(|ip| **ip != Ip::UNSPECIFIED).map(|ip| IpAddr::from(*ip)).collect();
        if ips.is_empty() {
            ips = known;
        }
        let rewritten: Vec<IpAddr> = [present.redirect_v4, present.redirect_v6]
            .into_iter()
            .filter(|ip| *ip != Ip::UNSPECIFIED)
            .map(IpAddr::from)
            .collect();
        let redirect_ips = redirect_ips(&ips, &rewritten);
        let rules = self.redirect.rules(slot)?;
        let policy = policy.unwrap_or_else(|| Policy::from_rules(&rules, present.flags & pod_flag::FAIL_OPEN != 0));
        self.redirect.change_rules(slot, &rules, &policy.rules())?;
        self.redirect.steer(slot, &netns)?;
        let enrolled = SystemTime::now();
        let listeners = Vec::new();
        let mut set = present.flags & SET;
        if set & pod_flag::TIME_WAIT_REUSE == 0 {
            // An earlier version did not.
            set |= self.reuse_time_wait(&spec, &netns);
        }
        let mut pod = Pod { spec, policy, netns, cookie, slot, ips, redirect_ips, listeners, enrolled, set, changes };
        if !netns::is_held(&pod.netns, &rewritten)? {
            // Nobody can hand sockets back: connections were refused, and need not be any longer.
            self.listen(&mut pod)?;
            return Ok(pod);
        }
        // Until sockets are there for them, connections go on being rewritten to where they went before.
        let mut config = pod.pod_config();
        (config.redirect_v4, config.redirect_v6) = (present.redirect_v4, present.redirect_v6);
        self.redirect.enroll(cookie, &config)?;
        Ok(pod)
    }

    /// Gives a pod that was taken over the sockets that a proxy handed back, if they are all that it needs.
    pub(super) fn take_back(&self, pod: &mut Pod, back: ListenersHandedBack) -> Result<bool, Error> {
        let mut listeners = Vec::new();
        for (listener, socket) in back.listeners {
            let address: SocketAddr = listener.address.parse().map_err(|_| netns::Error::HandedBack {
                address: listener.address.clone(),
                problem: "it is not an address".to_owned(),
            })?;
            let direction = match listener.direction() {
                handoff::Direction::Inbound => Direction::Inbound,
                _ => Direction::Outbound,
            };
            netns::check_handed_back(socket.as_fd(), pod.cookie, address)?;
            listeners.push(PodListener { direction, worker: listener.worker, address, socket });
        }
        let bound = |direction, port, ip: Option<IpAddr>| {
            listeners.iter().any(|listener: &PodListener| {
                listener.direction == direction
                    && listener.address.port() == port
                    && ip.is_none_or(|ip| listener.address.ip() == ip)
            })
        };
        let complete = bound(Direction::Inbound, INBOUND_PORT, None)
            && pod.redirect_ips.iter().all(|ip| bound(Direction::Outbound, OUTBOUND_PORT, Some(*ip)));
        if complete {
            pod.listeners = listeners;
            self.fill_slot(pod)?;
            self.redirect.enroll(pod.cookie, &pod.pod_config())?;
        }
        Ok(complete)
    }

    /// Makes a pod's listening sockets anew, beside those that it has, and puts them in their place.
    pub(super) fn listen(&self, pod: &mut Pod) -> Result<(), Error> {
        pod.listeners = netns::listeners(&pod.netns, &pod.redirect_ips, self.workers)?;
        self.fill_slot(pod)?;
        Ok(self.redirect.enroll(pod.cookie, &pod.pod_config())?)
    }

    /// Applies another specification to an enrolled pod, in place.
    pub(super) fn update(&self, pod: &mut Pod, spec: PodSpec, policy: Policy) -> Result<(), Error> {
        if policy != pod.policy {
            let before = std::mem::replace(&mut pod.policy, policy);
            let applied = self
                .redirect
                .change_rules(pod.slot, &before.rules(), &pod.policy.rules())
                .and_then(|()| self.redirect.set_slot(pod.slot, &pod.slot_config()))
                .and_then(|()| self.redirect.enroll(pod.cookie, &pod.pod_config()));
            if let Err(error) = applied {
                // Tried again from there. What was added already goes: nobody would take it back if the pod is given
                // its former annotations instead.
                let after = std::mem::replace(&mut pod.policy, before);
                if let Err(error) = self.redirect.change_rules(pod.slot, &after.rules(), &pod.policy.rules()) {
                    tracing::error!(pod = %pod.spec.full_name(), slot = pod.slot, %error, "rules of a failed change stay");
                }
                return Err(error.into());
            }
        }
        pod.spec = spec;
        Ok(())
    }

    /// Makes an enrolled pod another one in the same namespace.
    pub(super) fn rename(&self, pod: &mut Pod, spec: PodSpec, policy: Policy) -> Result<(), Error> {
        let netns = open(&spec)?;
        if netns.identity() != pod.netns.identity() {
            return Err(Error::Replaced);
        }
        let changes = AddressChanges::of(&netns)?;
        self.update(pod, spec, policy)?;
        (pod.netns, pod.changes) = (netns, Some(changes));
        Ok(())
    }

    /// Looks again which addresses a pod has. Whether they changed, and whether its sockets did with them.
    pub(super) fn refresh(&self, pod: &mut Pod) -> Result<Refreshed, Error> {
        let ips = pod.netns.look()?.ips;
        // Without any it is on its way out, or being set up again: it keeps those that it had.
        // One whose sockets are not back yet keeps them too.
        if ips.is_empty() || ips == pod.ips || pod.listeners.is_empty() {
            return Ok(Refreshed::Same);
        }
        self.warn_of(&pod.spec, &ips);
        let redirect_ips = redirect_ips(&ips, &pod.redirect_ips);
        let before = (std::mem::replace(&mut pod.ips, ips), pod.redirect_ips.clone());
        let applied = if redirect_ips == pod.redirect_ips {
            self.redirect.enroll(pod.cookie, &pod.pod_config()).map_err(Error::from).map(|()| Refreshed::Addresses)
        } else {
            pod.redirect_ips = redirect_ips;
            self.listen(pod).map(|()| Refreshed::Sockets)
        };
        if applied.is_err() {
            // Different again at the next look, and so tried again.
            (pod.ips, pod.redirect_ips) = before;
        }
        applied
    }

    /// Takes a pod out of the kernel.
    pub(super) fn withdraw(&self, cookie: u64, slot: u32) -> Result<(), Error> {
        Ok(self.redirect.withdraw(cookie, slot)?)
    }
}

/// What another look at a pod's addresses changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refreshed {
    /// Nothing.
    Same,
    /// Its addresses.
    Addresses,
    /// Its addresses, and its sockets with them.
    Sockets,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn connections_are_rewritten_to_the_first_address_of_their_family_and_stay_there() {
        let all = ips(&["fd00::2", "10.0.0.2", "10.0.0.3", "fd00::3"]);
        assert_eq!(redirect_ips(&all, &[]), ips(&["10.0.0.2", "fd00::2"]));
        assert_eq!(redirect_ips(&all, &ips(&["10.0.0.3"])), ips(&["10.0.0.3", "fd00::2"]));
        assert_eq!(redirect_ips(&all, &ips(&["10.0.0.9", "fd00::9"])), ips(&["10.0.0.2", "fd00::2"]));
        assert_eq!(redirect_ips(&ips(&["fd00::2"]), &ips(&["10.0.0.3"])), ips(&["fd00::2"]));
        assert!(redirect_ips(&[], &ips(&["10.0.0.3"])).is_empty());
    }
}
