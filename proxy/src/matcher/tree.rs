//! The matcher tree of xDS (`xds.type.matcher.v3.Matcher`): from what is known of a request or a connection to an action.
//!
//! A branch that matches and leads to a tree in which nothing does has not matched: the search goes on where it was.

use std::{borrow::Cow, collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use super::{MatchedHeader, StringMatcher};

/// What a branch looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A header of the request: its values joined by commas.
    Header(MatchedHeader),
    /// The first value of a query parameter.
    QueryParameter(Box<str>),
    /// The address that the client connected to.
    DestinationIp,
    /// The port that the client connected to.
    DestinationPort,
    /// The client's address, as trusted headers say.
    SourceIp,
    /// The client's port.
    SourcePort,
    /// The address of the connection's peer.
    DirectSourceIp,
    /// `local`, for clients of this host.
    SourceType,
    /// SNI.
    ServerName,
    /// `tls` or `raw_buffer`.
    TransportProtocol,
    /// What the client offers: `'h2','http/1.1'`.
    ApplicationProtocols,
    /// The text of an object of filter state.
    FilterState(Box<str>),
}

/// What there is of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A text.
    Text(Cow<'a, [u8]>),
    /// An address.
    Address(IpAddr),
    /// A port.
    Port(u16),
}

impl<'a> Value<'a> {
    /// Of a text; an empty one is none.
    pub fn some(text: &'a str) -> Option<Self> {
        (!text.is_empty()).then_some(Self::Text(Cow::Borrowed(text.as_bytes())))
    }

    fn into_text(self) -> Cow<'a, [u8]> {
        match self {
            Self::Text(text) => text,
            Self::Address(address) => address.to_string().into_bytes().into(),
            Self::Port(port) => port.to_string().into_bytes().into(),
        }
    }

    fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
            Self::Port(_) => None,
        }
    }
}

/// What is known.
pub trait Facts {
    /// What there is of an input.
    fn value(&self, input: &Input) -> Option<Value<'_>>;
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Tree<A> {
    /// What is looked at.
    pub branches: Branches<A>,
    /// Where nothing matches.
    pub otherwise: Option<Box<OnMatch<A>>>,
}

/// What is looked at.
#[derive(Clone, Debug)]
pub enum Branches<A> {
    /// Nothing.
    None,
    /// The first that holds and leads somewhere.
    List(Vec<(Predicate, OnMatch<A>)>),
    /// The whole of an input.
    Exact(Input, HashMap<Box<[u8]>, OnMatch<A>>),
    /// How an input begins, the longest first.
    Prefixes(Input, Vec<(Box<[u8]>, OnMatch<A>)>),
    /// In which network an address is, the smallest first.
    Networks(Input, Vec<Network<A>>),
}

/// A network of [`Branches::Networks`].
#[derive(Clone, Debug)]
pub struct Network<A> {
    /// The network.
    pub net: IpNet,
    /// Only where no smaller one has the address.
    pub exclusive: bool,
    /// Where it leads.
    pub on_match: OnMatch<A>,
}

/// Where a branch leads.
#[derive(Clone, Debug)]
pub struct OnMatch<A> {
    /// Where to.
    pub target: Target<A>,
    /// Go on as if nothing had matched.
    pub keep_matching: bool,
}

/// See [`OnMatch`].
#[derive(Clone, Debug)]
pub enum Target<A> {
    /// The end.
    Action(A),
    /// Further.
    Tree(Box<Tree<A>>),
}

/// What must hold.
#[derive(Clone, Debug)]
pub enum Predicate {
    /// An input looks like this.
    Text(Input, StringMatcher),
    /// An input is an address of one of these networks.
    Networks(Input, Vec<IpNet>),
    /// All of these.
    And(Vec<Predicate>),
    /// Any of these.
    Or(Vec<Predicate>),
    /// Not this.
    Not(Box<Predicate>),
}

impl<A> Tree<A> {
    /// Where the facts lead.
    pub fn find(&self, facts: &impl Facts) -> Option<&A> {
        self.branch(facts).or_else(|| self.otherwise.as_ref()?.follow(facts))
    }

    fn branch(&self, facts: &impl Facts) -> Option<&A> {
        match &self.branches {
            Branches::None => None,
            Branches::List(list) => {
                let mut holding = list.iter().filter(|(predicate, _)| predicate.holds(facts));
                holding.find_map(|(_, on_match)| on_match.follow(facts))
            }
            Branches::Exact(input, map) => map.get(&*facts.value(input)?.into_text())?.follow(facts),
            Branches::Prefixes(input, prefixes) => {
                let text = facts.value(input)?.into_text();
                let mut found = prefixes.iter().filter(|(prefix, _)| text.starts_with(prefix));
                found.find_map(|(_, on_match)| on_match.follow(facts))
            }
            Branches::Networks(input, networks) => {
                let address = facts.value(input)?.address()?;
                let found = networks.iter().filter(|network| network.net.contains(&address)).enumerate();
                let mut considered = found.filter(|(index, network)| *index == 0 || !network.exclusive);
                considered.find_map(|(_, network)| network.on_match.follow(facts))
            }
        }
    }

    /// Visits every action.
    pub fn each_action(&self, visit: &mut impl FnMut(&A)) {
        match &self.branches {
            Branches::None => {}
            Branches::List(list) => list.iter().for_each(|(_, on_match)| on_match.each_action(visit)),
            Branches::Exact(_, map) => map.values().for_each(|on_match| on_match.each_action(visit)),
            Branches::Prefixes(_, prefixes) => prefixes.iter().for_each(|(_, on_match)| on_match.each_action(visit)),
            Branches::Networks(_, networks) => networks.iter().for_each(|one| one.on_match.each_action(visit)),
        }
        if let Some(otherwise) = &self.otherwise {
            otherwise.each_action(visit);
        }
    }
}

impl<A> OnMatch<A> {
    fn follow(&self, facts: &impl Facts) -> Option<&A> {
        let action = match &self.target {
            Target::Action(action) => Some(action),
            Target::Tree(tree) => tree.find(facts),
        };
        action.filter(|_| !self.keep_matching)
    }

    fn each_action(&self, visit: &mut impl FnMut(&A)) {
        match &self.target {
            Target::Action(action) => visit(action),
            Target::Tree(tree) => tree.each_action(visit),
        }
    }
}

impl Predicate {
    /// Whether it holds. What is not there matches nothing.
    pub fn holds(&self, facts: &impl Facts) -> bool {
        match self {
            Self::Text(input, matcher) => facts.value(input).is_some_and(|value| matcher.matches(&value.into_text())),
            Self::Networks(input, networks) => {
                let address = facts.value(input).and_then(|value| value.address());
                address.is_some_and(|address| networks.iter().any(|network| network.contains(&address)))
            }
            Self::And(all) => all.iter().all(|predicate| predicate.holds(facts)),
            Self::Or(any) => any.iter().any(|predicate| predicate.holds(facts)),
            Self::Not(predicate) => !predicate.holds(facts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sni(&'static str);

    impl Facts for Sni {
        fn value(&self, input: &Input) -> Option<Value<'_>> {
            match input {
                Input::ServerName => Value::some(self.0),
                Input::DestinationPort => Some(Value::Port(80)),
                Input::DestinationIp => Some(Value::Address(IpAddr::from([10, 1, 2, 3]))),
                _ => None,
            }
        }
    }

    fn to(action: u8) -> OnMatch<u8> {
        OnMatch { target: Target::Action(action), keep_matching: false }
    }

    fn nowhere() -> OnMatch<u8> {
        OnMatch { target: Target::Tree(Box::new(Tree { branches: Branches::None, otherwise: None })), ..to(0) }
    }

    fn tree(branches: Branches<u8>) -> Tree<u8> {
        Tree { branches, otherwise: Some(Box::new(to(9))) }
    }

    #[test]
    fn lists_go_on_after_what_leads_nowhere() {
        let named = |name: &str| Predicate::Text(Input::ServerName, StringMatcher::exact(name));
        let kept = OnMatch { keep_matching: true, ..to(2) };
        let list = [(named("a"), nowhere()), (named("a"), kept), (named("a"), to(3)), (named("b"), to(4))];
        let tree = tree(Branches::List(list.into()));
        for (name, action) in [("a", 3), ("b", 4), ("c", 9), ("", 9)] {
            assert_eq!(tree.find(&Sni(name)), Some(&action), "{name}");
        }
        let not = Predicate::Not(Box::new(named("a")));
        assert!(not.holds(&Sni("")) && !not.holds(&Sni("a")));
    }

    #[test]
    fn maps_and_prefixes() {
        let exact = tree(Branches::Exact(Input::DestinationPort, [(b"80".as_slice().into(), to(1))].into()));
        assert_eq!(exact.find(&Sni("")), Some(&1));
        let prefixes = [("a.b", nowhere()), ("a.", to(2))].map(|(text, to)| (text.as_bytes().into(), to));
        let prefixes = tree(Branches::Prefixes(Input::ServerName, prefixes.into()));
        for (name, action) in [("a.b.c", 2), ("a.c", 2), ("b", 9), ("", 9)] {
            assert_eq!(prefixes.find(&Sni(name)), Some(&action), "{name}");
        }
    }

    #[test]
    fn exclusive_networks_are_the_smallest_or_none() {
        let network = |net: &str, exclusive, on_match| Network { net: net.parse().unwrap(), exclusive, on_match };
        let networks = vec![
            network("10.1.0.0/16", false, nowhere()),
            network("10.0.0.0/8", true, to(1)),
            network("0.0.0.0/0", false, to(2)),
        ];
        assert_eq!(tree(Branches::Networks(Input::DestinationIp, networks.clone())).find(&Sni("")), Some(&2));
        let networks = networks[1..].to_vec();
        assert_eq!(tree(Branches::Networks(Input::DestinationIp, networks)).find(&Sni("")), Some(&1));
    }
}
