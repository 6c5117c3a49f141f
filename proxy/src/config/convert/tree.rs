//! Matcher trees of xDS: what they look at, and where they lead.

use std::cmp::Reverse;

use ipnet::IpNet;
use prost::Name;
use prost_types::Any;
use weir_proto::{
    envoy::{
        config::core::v3 as core,
        extensions::matching::{common_inputs::network::v3::FilterStateInput, input_matchers::ip::v3::Ip},
        r#type::matcher::v3::{self as envoy, HttpRequestHeaderMatchInput, HttpRequestQueryParamMatchInput},
    },
    xds::{
        core::v3::{CidrRange, TypedExtensionConfig},
        r#type::matcher::v3::{self as proto, IpMatcher, Matcher, matcher as parts},
    },
};

use super::{
    context::Context,
    fields::{cidr, cidrs, item, sub, type_name, unpack},
    matcher,
};
use crate::{
    config::error::Error,
    matcher::{
        StringMatcher,
        tree::{Branches, Input, Network, OnMatch, Predicate, Target, Tree},
    },
};

/// What a tree may look at, by where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inputs {
    /// A request and its connection.
    Request,
    /// A connection that is served.
    Connection,
    /// A connection that has just come.
    Listener,
}

/// What an action is made of.
type Act<'a, A> = &'a mut dyn FnMut(&mut Context, &Any, &str) -> Result<A, Error>;

pub(super) fn tree<A>(
    cx: &mut Context,
    message: &Matcher,
    inputs: Inputs,
    act: Act<'_, A>,
    at: &str,
) -> Result<Tree<A>, Error> {
    let mut reader = Reader { cx, inputs, act };
    reader.tree(message, at)
}

/// Keys, and where they lead.
type Entries<A> = Vec<(Box<[u8]>, OnMatch<A>)>;

struct Reader<'a, A> {
    cx: &'a mut Context,
    inputs: Inputs,
    act: Act<'a, A>,
}

impl<A> Reader<'_, A> {
    fn tree(&mut self, message: &Matcher, at: &str) -> Result<Tree<A>, Error> {
        let branches = match &message.matcher_type {
            None => Branches::None,
            Some(parts::MatcherType::MatcherList(list)) => {
                let at = sub(at, "matcher_list");
                let each = list.matchers.iter().enumerate();
                let each = each.map(|(index, one)| self.field(one, &item(&at, "matchers", index)));
                Branches::List(each.collect::<Result<_, _>>()?)
            }
            Some(parts::MatcherType::MatcherTree(tree)) => self.map(tree, &sub(at, "matcher_tree"))?,
        };
        let otherwise = message.on_no_match.as_ref();
        let otherwise = otherwise.map(|to| self.on_match(Some(&**to), &sub(at, "on_no_match"))).transpose()?;
        Ok(Tree { branches, otherwise: otherwise.map(Box::new) })
    }

    fn field(
        &mut self,
        message: &parts::matcher_list::FieldMatcher,
        at: &str,
    ) -> Result<(Predicate, OnMatch<A>), Error> {
        let predicate = self.predicate(message.predicate.as_ref(), &sub(at, "predicate"))?;
        Ok((predicate, self.on_match(message.on_match.as_ref(), &sub(at, "on_match"))?))
    }

    fn map(&mut self, message: &parts::MatcherTree, at: &str) -> Result<Branches<A>, Error> {
        use parts::matcher_tree::TreeType;
        let input = self.input(message.input.as_ref(), &sub(at, "input"))?;
        Ok(match &message.tree_type {
            None => return Err(Error::at(at, "expected one of exact_match_map, prefix_match_map, custom_match")),
            Some(TreeType::ExactMatchMap(map)) => {
                Branches::Exact(input, self.entries(map, &sub(at, "exact_match_map"))?.into_iter().collect())
            }
            Some(TreeType::PrefixMatchMap(map)) => {
                let mut prefixes = self.entries(map, &sub(at, "prefix_match_map"))?;
                prefixes.sort_by_key(|(prefix, _)| Reverse(prefix.len()));
                Branches::Prefixes(input, prefixes)
            }
            Some(TreeType::CustomMatch(custom)) => {
                let at = sub(&sub(at, "custom_match"), "typed_config");
                let any = typed(custom, &at)?;
                if type_name(any) != IpMatcher::full_name() {
                    return Err(Error::at(at, format!("matcher {} is not supported yet", type_name(any))));
                }
                Branches::Networks(input, self.networks(&unpack(any, &at)?, &at)?)
            }
        })
    }

    fn entries(&mut self, message: &parts::matcher_tree::MatchMap, at: &str) -> Result<Entries<A>, Error> {
        let mut entries: Vec<_> = message.map.iter().collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        let each = entries.into_iter().map(|(key, to)| {
            let at = format!("{at}.map[\"{key}\"]");
            Ok((key.as_bytes().into(), self.on_match(Some(to), &at)?))
        });
        each.collect()
    }

    /// The longest prefix first; of equals the first that is written.
    fn networks(&mut self, message: &IpMatcher, at: &str) -> Result<Vec<Network<A>>, Error> {
        let mut networks = Vec::new();
        for (index, range) in message.range_matchers.iter().enumerate() {
            let at = item(at, "range_matchers", index);
            for net in ranges(&range.ranges, &at)? {
                let on_match = self.on_match(range.on_match.as_ref(), &sub(&at, "on_match"))?;
                networks.push(Network { net, exclusive: range.exclusive, on_match });
            }
        }
        networks.sort_by_key(|network| Reverse(network.net.prefix_len()));
        Ok(networks)
    }

    fn on_match(&mut self, message: Option<&parts::OnMatch>, at: &str) -> Result<OnMatch<A>, Error> {
        let message = message.ok_or_else(|| Error::at(at, "expected one of matcher, action"))?;
        let target = match &message.on_match {
            None => return Err(Error::at(at, "expected one of matcher, action")),
            Some(parts::on_match::OnMatch::Matcher(tree)) => {
                Target::Tree(Box::new(self.tree(tree, &sub(at, "matcher"))?))
            }
            Some(parts::on_match::OnMatch::Action(action)) => {
                let at = sub(&sub(at, "action"), "typed_config");
                Target::Action((self.act)(self.cx, typed(action, &at)?, &at)?)
            }
        };
        Ok(OnMatch { target, keep_matching: message.keep_matching })
    }

    fn predicate(&mut self, message: Option<&parts::matcher_list::Predicate>, at: &str) -> Result<Predicate, Error> {
        use parts::matcher_list::predicate::MatchType;
        let kind = message.and_then(|message| message.match_type.as_ref());
        Ok(match kind.ok_or_else(|| Error::at(at, "a predicate is required"))? {
            MatchType::SinglePredicate(single) => self.single(single, &sub(at, "single_predicate"))?,
            MatchType::OrMatcher(list) => Predicate::Or(self.predicates(list, &sub(at, "or_matcher"))?),
            MatchType::AndMatcher(list) => Predicate::And(self.predicates(list, &sub(at, "and_matcher"))?),
            MatchType::NotMatcher(one) => {
                Predicate::Not(Box::new(self.predicate(Some(&**one), &sub(at, "not_matcher"))?))
            }
        })
    }

    fn predicates(
        &mut self,
        message: &parts::matcher_list::predicate::PredicateList,
        at: &str,
    ) -> Result<Vec<Predicate>, Error> {
        let each = message.predicate.iter().enumerate();
        each.map(|(index, one)| self.predicate(Some(one), &item(at, "predicate", index))).collect()
    }

    fn single(
        &mut self,
        message: &parts::matcher_list::predicate::SinglePredicate,
        at: &str,
    ) -> Result<Predicate, Error> {
        use parts::matcher_list::predicate::single_predicate::Matcher;
        let input = self.input(message.input.as_ref(), &sub(at, "input"))?;
        match &message.matcher {
            None => Err(Error::at(at, "expected one of value_match, custom_match")),
            Some(Matcher::ValueMatch(text)) => Ok(Predicate::Text(input, string(text, &sub(at, "value_match"))?)),
            Some(Matcher::CustomMatch(custom)) => {
                let at = sub(&sub(at, "custom_match"), "typed_config");
                let any = typed(custom, &at)?;
                if type_name(any) != Ip::full_name() {
                    return Err(Error::at(at, format!("matcher {} is not supported yet", type_name(any))));
                }
                let message: Ip = unpack(any, &at)?;
                Ok(Predicate::Networks(input, cidrs(&message.cidr_ranges, &at, "cidr_ranges")?))
            }
        }
    }

    fn input(&mut self, message: Option<&TypedExtensionConfig>, at: &str) -> Result<Input, Error> {
        const NETWORK: &str = "envoy.extensions.matching.common_inputs.network.v3.";
        let at = sub(at, "typed_config");
        let any = message.map(|message| typed(message, &at)).transpose()?;
        let any = any.ok_or_else(|| Error::at(&at, "an input is required"))?;
        let name = type_name(any);
        let found = if name == FilterStateInput::full_name() {
            let message: FilterStateInput = unpack(any, &at)?;
            self.cx.only(&message, &at, &["key"], &[])?;
            Some(Input::FilterState(message.key.into()))
        } else if let Some(name) = name.strip_prefix(NETWORK) {
            self.network_input(name)
        } else if self.inputs == Inputs::Request {
            request_input(any, &at)?
        } else {
            None
        };
        found.ok_or_else(|| Error::at(at, format!("input {name} is not supported here")))
    }

    fn network_input(&self, name: &str) -> Option<Input> {
        let of_listener = |input| (self.inputs == Inputs::Listener).then_some(input);
        match name {
            "DestinationIPInput" => Some(Input::DestinationIp),
            "DestinationPortInput" => Some(Input::DestinationPort),
            "SourceIPInput" => Some(Input::SourceIp),
            "SourcePortInput" => Some(Input::SourcePort),
            "DirectSourceIPInput" => Some(Input::DirectSourceIp),
            "ServerNameInput" => Some(Input::ServerName),
            "SourceTypeInput" => of_listener(Input::SourceType),
            "TransportProtocolInput" => of_listener(Input::TransportProtocol),
            "ApplicationProtocolInput" => of_listener(Input::ApplicationProtocols),
            _ => None,
        }
    }
}

fn request_input(any: &Any, at: &str) -> Result<Option<Input>, Error> {
    let name = type_name(any);
    if name == HttpRequestHeaderMatchInput::full_name() {
        let message: HttpRequestHeaderMatchInput = unpack(any, at)?;
        let name = matcher::matched_header(&message.header_name, &sub(at, "header_name"))?;
        return Ok(Some(Input::Header(name)));
    }
    if name == HttpRequestQueryParamMatchInput::full_name() {
        let message: HttpRequestQueryParamMatchInput = unpack(any, at)?;
        return Ok(Some(Input::QueryParameter(message.query_param.into())));
    }
    Ok(None)
}

fn typed<'a>(message: &'a TypedExtensionConfig, at: &str) -> Result<&'a Any, Error> {
    message.typed_config.as_ref().ok_or_else(|| Error::at(at, "a configuration is required"))
}

fn ranges(messages: &[CidrRange], at: &str) -> Result<Vec<IpNet>, Error> {
    let range = |(index, message): (usize, &CidrRange)| {
        let message =
            core::CidrRange { address_prefix: message.address_prefix.clone(), prefix_len: message.prefix_len };
        cidr(&message, &item(at, "ranges", index))
    };
    messages.iter().enumerate().map(range).collect()
}

/// xDS' own matcher of strings is Envoy's under another name.
fn string(message: &proto::StringMatcher, at: &str) -> Result<StringMatcher, Error> {
    use envoy::string_matcher::MatchPattern as To;
    use proto::string_matcher::MatchPattern as From;
    let pattern = match &message.match_pattern {
        None => None,
        Some(From::Exact(text)) => Some(To::Exact(text.clone())),
        Some(From::Prefix(text)) => Some(To::Prefix(text.clone())),
        Some(From::Suffix(text)) => Some(To::Suffix(text.clone())),
        Some(From::Contains(text)) => Some(To::Contains(text.clone())),
        Some(From::SafeRegex(regex)) => {
            Some(To::SafeRegex(envoy::RegexMatcher { regex: regex.regex.clone(), ..Default::default() }))
        }
        Some(From::Custom(_)) => return Err(Error::at(sub(at, "custom"), "not supported yet")),
    };
    matcher::string(&envoy::StringMatcher { ignore_case: message.ignore_case, match_pattern: pattern }, at)
}
