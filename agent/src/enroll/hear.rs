//! What the proxies say, and what they are told for it.

use std::{mem, path::Path};

use tokio::{task::block_in_place, time::Instant};
use weir_abi::map::config_flag;

use super::{Reconciler, proxies::Told, reconciler::Served};
use crate::{
    handoff::{Event, ListenersHandedBack, open_process},
    netns::{self, Identity, Netns},
};

impl Reconciler {
    /// Sends proxies each pod as soon as it has its sockets: nobody's connections wait for another's pod. Once every pod of
    /// an earlier agent is taken over, they are told that this is all: what they hold beyond that they let go. What cannot
    /// be taken over holds only that up, and only for a while.
    pub(super) fn settle(&mut self) {
        let now = Instant::now();
        let settled = self.wanted.is_some() && self.taken_over();
        let complete = self.pods.values().all(|pod| !pod.listeners.is_empty());
        if settled {
            self.registry.settle();
            // Of pods that nobody wants any more: they would keep their network namespaces.
            self.handed_back.clear();
            self.ground.keeper.settle();
            if complete || now >= self.take_over_until {
                self.milestones.send_if_modified(|milestones| !mem::replace(&mut milestones.settled, true));
            }
            // A restarted agent waits for the one that accepts to connect again.
            if now >= self.hand_back_until && self.leaving.is_none() {
                self.proxies.summon();
            }
        }
        self.proxies.send_pods(self.pods.values().filter(|pod| !pod.listeners.is_empty()), &self.settings.node);
        if settled && (complete || now >= self.hand_back_until) {
            self.proxies.end_snapshot();
        }
    }

    /// Whether the pods of an earlier agent are taken over, or had their time.
    pub(super) fn taken_over(&self) -> bool {
        Instant::now() >= self.take_over_until || self.adopted.is_empty()
    }

    /// Takes what a proxy says. Whether it changes what is to be done.
    pub(super) fn hear(&mut self, event: Event) -> bool {
        match event {
            Event::Connected { proxy, hello, peer, handed_back } => {
                let maps = match self.ground.redirect.socket_maps() {
                    Ok(maps) => maps,
                    Err(error) => {
                        tracing::error!(%error, "no file descriptors for a proxy; it must dial again");
                        return false;
                    }
                };
                let own = is_own(self.settings.own_netns, peer.pid);
                self.proxies.join(proxy, hello, peer, own, maps);
                self.proxies.remind(self.settings.redirect.drain);
                for back in handed_back {
                    self.hand_back(back);
                }
                return true;
            }
            Event::Acked { proxy, id, error } => {
                let counts = self.proxies.speaker() == Some(proxy);
                return self.proxies.acknowledged(proxy, id).is_some_and(|told| self.acknowledged(told, error, counts));
            }
            Event::Ready(id) => self.proxies.ready(id, self.settings.redirect.drain),
            Event::Draining { proxy, open, standby } => self.proxies.draining(proxy, open, standby),
            Event::Unanswered { proxy, since } => self.proxies.unanswered(proxy, since),
            Event::Answers(id) => self.proxies.answers(id),
            Event::Passes { proxy, pass, fds } => {
                self.proxies.pass(proxy, pass, fds);
                return false;
            }
            Event::Gone(id) => {
                self.proxies.leave(id);
                self.check_sockets();
            }
        }
        self.set_ready(self.proxies.any_ready());
        self.watch_proxy();
        false
    }

    /// A proxy can switch off a listening socket that it shares, a privileged process of the pod can destroy it: such
    /// sockets are made anew.
    pub(super) fn check_sockets(&mut self) {
        for pod in self.pods.values_mut() {
            if !pod.listeners.iter().all(|listener| netns::is_listening(&listener.socket)) {
                tracing::warn!(pod = %pod.spec.full_name(), "a listening socket does not listen any more");
                pod.listeners.clear();
            }
        }
    }

    pub(super) fn hand_back(&mut self, back: ListenersHandedBack) {
        match self.pods.remove(&back.uid) {
            Some(mut pod) => {
                if pod.listeners.is_empty() {
                    block_in_place(|| self.take_back(&mut pod, back));
                    if !pod.listeners.is_empty() {
                        // That there were none.
                        self.failures.remove(&pod.spec.uid);
                    }
                    self.keep_sockets(&pod);
                }
                self.pods.insert(pod.spec.uid.clone(), pod);
            }
            // Only while there is something to take over: what is not taken then is closed.
            None if !self.adopted.is_empty() => drop(self.handed_back.insert(back.uid.clone(), back)),
            None => {}
        }
    }

    /// Takes what a proxy says of what it was told; `counts` if it is the one that accepts. Whether it changes what is
    /// to be done.
    pub(super) fn acknowledged(&mut self, told: Told, error: String, counts: bool) -> bool {
        match told {
            Told::Enroll(uid) => {
                let Some(pod) = self.pods.get(&uid) else { return false };
                let begun = if error.is_empty() { self.begun.remove(&uid) } else { None };
                if let Some(begun) = begun {
                    self.settings.counts.enrolment.observe(begun.elapsed().as_secs_f64());
                }
                let served = self.served.entry(uid).or_default();
                if error.is_empty() {
                    if mem::replace(served, Served::Yes) != Served::Yes {
                        tracing::info!(pod = %pod.spec.full_name(), "pod enrolled");
                    }
                } else {
                    tracing::warn!(pod = %pod.spec.full_name(), %error, "a proxy does not serve the pod");
                    if counts {
                        *served = Served::Refused(error);
                    }
                }
            }
            Told::Take { from, id } => self.proxies.passed(from, id, error),
            Told::Update(uid) => {
                if !error.is_empty() {
                    tracing::warn!(uid, %error, "a proxy did not take a pod's change");
                }
            }
            Told::Withdraw(uid) => {
                let let_go = !self.proxies.letting_go(&uid);
                if let_go {
                    self.withdrawn.remove(&uid);
                }
                return let_go;
            }
        }
        false
    }

    /// The keeper is to know which proxy accepts: it tells the kernel when that one is gone and no agent sees it.
    fn watch_proxy(&mut self) {
        let acceptor = self.proxies.acceptor_process();
        if self.watched == acceptor {
            return;
        }
        self.watched = acceptor;
        let open = |(_, pid)| Ok::<_, std::io::Error>([self.ground.redirect.config().fd()?, open_process(pid)?]);
        match acceptor.map(open).transpose() {
            Ok(watched) => self.ground.keeper.watch(watched),
            Err(error) => tracing::debug!(%error, "the keeper does not know which proxy accepts"),
        }
    }

    pub(super) fn set_ready(&self, ready: bool) {
        if let Err(error) = self.ground.redirect.config().set_flag(config_flag::PROXY_READY, ready) {
            tracing::error!(%error, ready, "the kernel does not know whether a proxy is ready");
        }
    }
}

/// Whether a process is in the agent's own pod: in its network namespace. When it started says nothing: containers of the
/// old pod are started again as well. One that cannot be looked at is not. Outside a pod every process is.
fn is_own(own_netns: Option<Identity>, pid: i32) -> bool {
    own_netns.is_none_or(|own| Netns::identity_at(Path::new(&format!("/proc/{pid}/ns/net"))) == Some(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_of_the_agents_pod_by_its_namespace_alone() {
        let own = Netns::identity_at(Path::new("/proc/self/ns/net")).unwrap();
        let me = std::process::id() as i32;
        assert!(is_own(Some(own), me) && is_own(None, me) && is_own(None, 0));
        let other = Netns::identity_at(Path::new("/proc/self/ns/mnt")).unwrap();
        assert!(!is_own(Some(other), me), "whatever else is a namespace is another one");
        assert!(!is_own(Some(own), 0), "a process that cannot be looked at");
    }
}
