//! Role based access control: policies, and which of them takes a connection or request.
//!
//! A policy takes a subject if one of its permissions and one of its principals does. Policies are asked in the order
//! of their names, as Envoy keeps them. Instead of policies a tree may lead to what is to happen.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use ipnet::IpNet;

use super::request::{RequestView, header_matches};
use crate::{
    cel::{self, Attribute, Attributes, Expression},
    filter_state::FilterState,
    matcher::{
        HeaderMatcher, MatchedHeader, Regex, StringMatcher,
        metadata::{Metadata, MetadataMatcher},
        query_value,
        tree::{Facts, Input, Tree, Value},
    },
};

/// What it means that a policy takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It may pass; others may not.
    Allow,
    /// It may not pass; others may.
    Deny,
    /// It is noted; everything passes.
    Log,
}

/// Who decides.
#[derive(Clone, Debug)]
pub enum Engine {
    /// Policies (`rules`).
    Rules(Rules),
    /// A tree (`matcher`); where it leads nowhere, nothing may pass.
    Tree {
        /// The tree.
        tree: Tree<Ruling>,
        /// Some of its rulings note only.
        notes: bool,
    },
}

/// What a tree leads to.
#[derive(Clone, Debug)]
pub struct Ruling {
    /// Stands for a policy's name.
    pub name: Arc<str>,
    /// What is to happen.
    pub action: Action,
}

/// A set of policies.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What a match means.
    pub action: Action,
    /// By name, sorted.
    pub policies: Vec<(Arc<str>, Policy)>,
}

impl Rules {
    /// Whether any of them depends on a header of a request.
    pub fn read_headers(&self) -> bool {
        let mut conditions =
            self.policies.iter().flat_map(|(_, policy)| policy.permissions.iter().chain(&policy.principals));
        conditions.any(Condition::reads_headers)
    }
}

impl Condition {
    fn reads_headers(&self) -> bool {
        match self {
            Self::And(all) | Self::Or(all) => all.iter().any(Self::reads_headers),
            Self::Not(condition) => condition.reads_headers(),
            Self::Header(_) => true,
            _ => false,
        }
    }
}

/// A policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What it is about: any of these.
    pub permissions: Vec<Condition>,
    /// Who it is about: any of these.
    pub principals: Vec<Condition>,
    /// What must be true besides.
    pub condition: Option<Expression>,
}

/// A permission or a principal.
#[derive(Clone, Debug)]
pub enum Condition {
    /// Always.
    Any,
    /// All of these.
    And(Vec<Condition>),
    /// Any of these.
    Or(Vec<Condition>),
    /// Not this.
    Not(Box<Condition>),
    /// A header of the request; never without a request.
    Header(Box<HeaderMatcher>),
    /// The path without its query; never without a request.
    UrlPath(StringMatcher),
    /// The path without its query, by a template; never without a request.
    PathTemplate(Regex),
    /// The address that the client connected to.
    DestinationIp(IpNet),
    /// The port that the client connected to, `start..end`.
    DestinationPort(u32, u32),
    /// SNI.
    ServerName(StringMatcher),
    /// The peer of the connection.
    DirectRemoteIp(IpNet),
    /// The client, as trusted headers say.
    RemoteIp(IpNet),
    /// The connection is under TLS and, where there is a matcher, a URI or DNS subject alternative name or the subject of
    /// the peer's certificate matches. Without a matcher Envoy asks for no certificate.
    Authenticated(Option<StringMatcher>),
    /// Dynamic metadata.
    Metadata(MetadataMatcher),
    /// The route's metadata.
    RouteMetadata(MetadataMatcher),
    /// An object of filter state is there, and its text looks like this.
    FilterState(Box<str>, StringMatcher),
}

/// Who wants what.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The request, if this is about one.
    pub request: Option<RequestView<'a>>,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The peer of the connection.
    pub direct_remote: SocketAddr,
    /// The client, as trusted headers say.
    pub remote: SocketAddr,
    /// SNI.
    pub server_name: &'a str,
    /// Names that the peer's certificate gives it; none: the connection is not under TLS.
    pub peer: Option<&'a [Box<str>]>,
    /// Gathered so far.
    pub metadata: Option<&'a Metadata>,
    /// The route's.
    pub route_metadata: Option<&'a Metadata>,
    /// What filters keep.
    pub filter_state: Option<&'a FilterState>,
}

/// What the rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It may pass.
    pub allowed: bool,
    /// The policy that took it.
    pub policy: Option<Arc<str>>,
    /// Whether access logs shall have it (`envoy.common: access_log_hint`); none: nothing is said.
    pub hint: Option<bool>,
}

impl Engine {
    /// A tree that decides.
    pub fn tree(tree: Tree<Ruling>) -> Self {
        let mut notes = false;
        tree.each_action(&mut |ruling| notes |= ruling.action == Action::Log);
        Self::Tree { tree, notes }
    }

    /// Decides.
    pub fn evaluate(&self, subject: &Subject<'_>) -> Verdict {
        let (tree, notes) = match self {
            Self::Rules(rules) => return rules.evaluate(subject),
            Self::Tree { tree, notes } => (tree, *notes),
        };
        let ruling = tree.find(subject);
        Verdict {
            allowed: ruling.is_some_and(|ruling| ruling.action != Action::Deny),
            policy: ruling.map(|ruling| ruling.name.clone()),
            hint: ruling.filter(|_| notes).map(|ruling| ruling.action == Action::Log),
        }
    }
}

impl Subject<'_> {
    /// Whether conditions may ask this of subjects. What is of requests is there only with one.
    pub fn knows(attribute: &Attribute) -> bool {
        matches!(
            attribute,
            Attribute::Path
                | Attribute::UrlPath
                | Attribute::Query
                | Attribute::Host
                | Attribute::Scheme
                | Attribute::Method
                | Attribute::Header(_)
                | Attribute::Mtls
                | Attribute::ServerName
                | Attribute::SourceAddress
                | Attribute::SourcePort
                | Attribute::DestinationAddress
                | Attribute::DestinationPort
                | Attribute::Metadata(..)
        )
    }

    fn header(&self, name: MatchedHeader) -> Option<cel::Value<'_>> {
        match self.request?.joined(&name)? {
            Cow::Borrowed(value) => Some(cel::Value::lossy(value)),
            Cow::Owned(value) => Some(cel::Value::Text(String::from_utf8_lossy(&value).into_owned().into())),
        }
    }
}

impl Attributes for Subject<'_> {
    fn get(&self, attribute: &Attribute) -> Option<cel::Value<'_>> {
        let address = |address: SocketAddr| cel::Value::Text(address.to_string().into());
        Some(match attribute {
            Attribute::Path => self.header(MatchedHeader::Path)?,
            Attribute::UrlPath => cel::Value::text(self.request?.uri.path()),
            Attribute::Query => cel::Value::text(self.request?.uri.query().unwrap_or_default()),
            Attribute::Host => self.header(MatchedHeader::Authority)?,
            Attribute::Scheme => self.header(MatchedHeader::Scheme)?,
            Attribute::Method => self.header(MatchedHeader::Method)?,
            Attribute::Header(name) => self.header(MatchedHeader::Plain(name.clone()))?,
            // Who shows a certificate has a name: at least its subject.
            Attribute::Mtls => cel::Value::Bool(self.peer.is_some_and(|names| !names.is_empty())),
            Attribute::ServerName => cel::Value::text(self.server_name),
            Attribute::SourceAddress => address(self.remote),
            Attribute::SourcePort => cel::Value::Int(self.remote.port().into()),
            Attribute::DestinationAddress => address(self.local),
            Attribute::DestinationPort => cel::Value::Int(self.local.port().into()),
            Attribute::Metadata(namespace, path) => cel::Value::json(self.metadata?.get(namespace, path)?)?,
            _ => return None,
        })
    }
}

impl Facts for Subject<'_> {
    fn value(&self, input: &Input) -> Option<Value<'_>> {
        match input {
            Input::Header(name) => self.request?.joined(name).map(Value::Text),
            Input::QueryParameter(name) => {
                query_value(self.request?.uri.query()?, name).map(|value| Value::Text(Cow::Borrowed(value.as_bytes())))
            }
            Input::DestinationIp => Some(Value::Address(self.local.ip())),
            Input::DestinationPort => Some(Value::Port(self.local.port())),
            Input::SourceIp => Some(Value::Address(self.remote.ip())),
            Input::SourcePort => Some(Value::Port(self.remote.port())),
            Input::DirectSourceIp => Some(Value::Address(self.direct_remote.ip())),
            Input::ServerName => Value::some(self.server_name),
            Input::FilterState(key) => {
                let object = self.filter_state?.get(key)?;
                Some(Value::Text(object.to_string().into_bytes().into()))
            }
            // Nothing that is asked of those who are served.
            Input::SourceType | Input::TransportProtocol | Input::ApplicationProtocols => None,
        }
    }
}

impl Rules {
    /// Evaluates the rules.
    pub fn evaluate(&self, subject: &Subject<'_>) -> Verdict {
        let policy = self.policies.iter().find(|(_, policy)| policy.takes(subject)).map(|(name, _)| name.clone());
        let allowed = match self.action {
            Action::Allow => policy.is_some(),
            Action::Deny => policy.is_none(),
            Action::Log => true,
        };
        let hint = (self.action == Action::Log).then_some(policy.is_some());
        Verdict { allowed, policy, hint }
    }
}

impl Policy {
    fn takes(&self, subject: &Subject<'_>) -> bool {
        let any = |conditions: &[Condition]| conditions.iter().any(|condition| condition.holds(subject));
        let condition = || self.condition.as_ref().is_none_or(|condition| condition.holds(subject));
        any(&self.permissions) && any(&self.principals) && condition()
    }
}

impl Condition {
    /// Whether it holds for `subject`.
    pub fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::And(all) => all.iter().all(|condition| condition.holds(subject)),
            Self::Or(any) => any.iter().any(|condition| condition.holds(subject)),
            Self::Not(condition) => !condition.holds(subject),
            Self::Header(matcher) => subject.request.is_some_and(|request| header_matches(matcher, &request)),
            Self::UrlPath(matcher) => {
                subject.request.is_some_and(|request| matcher.matches(request.uri.path().as_bytes()))
            }
            Self::PathTemplate(template) => {
                subject.request.is_some_and(|request| template.is_match(request.uri.path().as_bytes()))
            }
            Self::DestinationIp(net) => net.contains(&subject.local.ip()),
            Self::DestinationPort(start, end) => (*start..*end).contains(&u32::from(subject.local.port())),
            Self::ServerName(matcher) => matcher.matches(subject.server_name.as_bytes()),
            Self::DirectRemoteIp(net) => net.contains(&subject.direct_remote.ip()),
            Self::RemoteIp(net) => net.contains(&subject.remote.ip()),
            Self::Authenticated(matcher) => match (subject.peer, matcher) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(names), Some(matcher)) => names.iter().any(|name| matcher.matches(name.as_bytes())),
            },
            Self::Metadata(matcher) => matcher.matches(subject.metadata),
            Self::RouteMetadata(matcher) => matcher.matches(subject.route_metadata),
            Self::FilterState(key, matcher) => {
                let object = subject.filter_state.and_then(|state| state.get(key));
                object.is_some_and(|object| matcher.matches(object.to_string().as_bytes()))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::config) fn subject() -> Subject<'static> {
        Subject {
            request: None,
            local: "10.0.0.1:80".parse().unwrap(),
            direct_remote: "10.0.0.2:1000".parse().unwrap(),
            remote: "192.0.2.1:0".parse().unwrap(),
            server_name: "a.test",
            peer: None,
            metadata: None,
            route_metadata: None,
            filter_state: None,
        }
    }

    fn rules(action: Action, condition: Condition) -> Rules {
        let policy = Policy { permissions: vec![Condition::Any], principals: vec![condition], condition: None };
        Rules { action, policies: vec![("p".into(), policy)] }
    }

    #[test]
    fn actions() {
        let here = Condition::RemoteIp("192.0.2.0/24".parse().unwrap());
        let elsewhere = Condition::DirectRemoteIp("192.0.2.0/24".parse().unwrap());
        for (action, takes, allowed) in [
            (Action::Allow, true, true),
            (Action::Allow, false, false),
            (Action::Deny, true, false),
            (Action::Deny, false, true),
            (Action::Log, false, true),
        ] {
            let condition = if takes { &here } else { &elsewhere };
            let verdict = rules(action, condition.clone()).evaluate(&subject());
            assert_eq!((verdict.allowed, verdict.policy.is_some()), (allowed, takes), "{action:?}");
        }
    }

    #[test]
    fn conditions() {
        let name = || Condition::ServerName(StringMatcher::exact("a.test"));
        let names = [Box::from("spiffe://td/ns/a/sa/b")];
        let authenticated = Subject { peer: Some(&names), ..subject() };
        for (condition, expected) in [
            (Condition::And(vec![name(), Condition::DestinationPort(80, 81)]), true),
            (Condition::And(vec![name(), Condition::DestinationPort(81, 90)]), false),
            (Condition::Or(vec![name(), Condition::DestinationPort(81, 90)]), true),
            (Condition::Not(Box::new(name())), false),
            (Condition::UrlPath(StringMatcher::exact("/")), false),
            (Condition::Authenticated(None), true),
            (Condition::Authenticated(Some(StringMatcher::exact("spiffe://td/ns/a/sa/b"))), true),
            (Condition::Authenticated(Some(StringMatcher::exact("other"))), false),
        ] {
            assert_eq!(condition.holds(&authenticated), expected, "{condition:?}");
        }
        assert!(!Condition::Authenticated(None).holds(&subject()));
        let anonymous = Subject { peer: Some(&[]), ..subject() };
        assert!(Condition::Authenticated(None).holds(&anonymous));
        assert!(!Condition::Authenticated(Some(StringMatcher::exact("other"))).holds(&anonymous));
    }
}
