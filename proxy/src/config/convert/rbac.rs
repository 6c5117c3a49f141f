//! Role based access control.

use prost::Name;
use prost_types::Any;
use weir_proto::{
    envoy::{
        config::rbac::v3::{self as proto, permission::Rule, principal::Identifier},
        r#type::matcher::v3::filter_state_matcher::Matcher as FilterStateMatcher,
    },
    xds::r#type::matcher::v3::Matcher,
};

use super::{
    context::Context,
    expression,
    fields::{cidr, item, sub, type_name, unpack},
    matcher, metadata,
    route::matching::template,
    tree::{self, Inputs},
};
use crate::{
    cel::Expression,
    config::{
        error::Error,
        rbac::{Action, Condition, Engine, Policy, Rules, Ruling, Subject},
    },
    matcher::StringMatcher,
};

/// Who decides: `matcher` goes before `rules`, as in Envoy.
pub(super) fn engine(
    cx: &mut Context,
    rules: Option<&proto::Rbac>,
    matcher: Option<&Matcher>,
    inputs: Inputs,
    [rules_at, matcher_at]: [&str; 2],
) -> Result<Option<Engine>, Error> {
    let Some(matcher) = matcher else {
        return Ok(rules.map(|message| self::rules(cx, message, rules_at)).transpose()?.map(Engine::Rules));
    };
    if rules.is_some() {
        cx.ignored.push(format!("{rules_at}: {matcher_at} goes before it"));
    }
    Ok(Some(Engine::tree(tree::tree(cx, matcher, inputs, &mut ruling, matcher_at)?)))
}

fn ruling(cx: &mut Context, action: &Any, at: &str) -> Result<Ruling, Error> {
    if type_name(action) != proto::Action::full_name() {
        return Err(Error::at(at, format!("expected {}, not {}", proto::Action::full_name(), type_name(action))));
    }
    let message: proto::Action = unpack(action, at)?;
    cx.only(&message, at, &["name", "action"], &[])?;
    Ok(Ruling { name: message.name.as_str().into(), action: action_of(message.action()) })
}

fn action_of(action: proto::rbac::Action) -> Action {
    match action {
        proto::rbac::Action::Allow => Action::Allow,
        proto::rbac::Action::Deny => Action::Deny,
        proto::rbac::Action::Log => Action::Log,
    }
}

/// A set of policies.
fn rules(cx: &mut Context, message: &proto::Rbac, at: &str) -> Result<Rules, Error> {
    cx.only(message, at, &["action", "policies"], &["audit_logging_options"])?;
    let mut policies = Vec::new();
    for (name, policy) in &message.policies {
        let at = format!("{at}.policies[\"{name}\"]");
        let supported = ["permissions", "principals", "condition", "checked_condition", "cel_config"];
        cx.only(policy, &at, &supported, &[])?;
        let permissions = policy.permissions.iter().enumerate();
        let principals = policy.principals.iter().enumerate();
        let policy = Policy {
            permissions: permissions
                .map(|(index, message)| permission(cx, message, &item(&at, "permissions", index)))
                .collect::<Result<_, _>>()?,
            principals: principals
                .map(|(index, message)| principal(cx, message, &item(&at, "principals", index)))
                .collect::<Result<_, _>>()?,
            condition: condition(cx, policy, &at)?,
        };
        policies.push((name.as_str().into(), policy));
    }
    policies.sort_by(|(one, _): &(std::sync::Arc<str>, _), (other, _)| one.cmp(other));
    Ok(Rules { action: action_of(message.action()), policies })
}

/// `condition` or `checked_condition`.
fn condition(cx: &mut Context, policy: &proto::Policy, at: &str) -> Result<Option<Expression>, Error> {
    let checked = policy.checked_condition.as_ref().map(|checked| (checked.expr.as_ref(), "checked_condition.expr"));
    let (message, field) = match (&policy.condition, checked) {
        (None, None) => return Ok(None),
        (Some(message), None) => (Some(message), "condition"),
        (None, Some(checked)) => checked,
        (Some(_), Some(_)) => return Err(Error::at(sub(at, "checked_condition"), "not together with condition")),
    };
    let message = message.ok_or_else(|| Error::at(sub(at, field), "an expression is required"))?;
    let expression = expression::parsed(cx, message, policy.cel_config.as_ref(), at, field)?;
    let mut unknown = None;
    expression.each_attribute(&mut |attribute| {
        if !Subject::knows(attribute) {
            unknown = Some(format!("{attribute:?} is not supported in conditions yet"));
        }
    });
    unknown.map_or(Ok(Some(expression)), |unknown| Err(Error::at(sub(at, field), unknown)))
}

#[expect(deprecated, reason = "published configurations use some")]
fn permission(cx: &mut Context, message: &proto::Permission, at: &str) -> Result<Condition, Error> {
    let rule = message.rule.as_ref().ok_or_else(|| Error::at(at, "a rule is required"))?;
    let unsupported = |field: &str| Err(Error::at(sub(at, field), "not supported yet"));
    let mut set = |rules: &[proto::Permission], field: &str| {
        let rules = rules.iter().enumerate();
        rules
            .map(|(index, rule)| permission(cx, rule, &item(&sub(at, field), "rules", index)))
            .collect::<Result<_, Error>>()
    };
    Ok(match rule {
        Rule::AndRules(all) => Condition::And(set(&all.rules, "and_rules")?),
        Rule::OrRules(any) => Condition::Or(set(&any.rules, "or_rules")?),
        Rule::Any(_) => Condition::Any,
        Rule::Header(message) => Condition::Header(Box::new(matcher::header(cx, message, &sub(at, "header"))?)),
        Rule::UrlPath(message) => Condition::UrlPath(url_path(message, &sub(at, "url_path"))?),
        Rule::DestinationIp(range) => Condition::DestinationIp(cidr(range, &sub(at, "destination_ip"))?),
        Rule::DestinationPort(port) => Condition::DestinationPort(*port, *port + 1),
        Rule::DestinationPortRange(range) => {
            let bound = |port: i32| u32::try_from(port).unwrap_or(0);
            Condition::DestinationPort(bound(range.start), bound(range.end))
        }
        Rule::Metadata(message) => Condition::Metadata(metadata::metadata_matcher(cx, message, &sub(at, "metadata"))?),
        Rule::SourcedMetadata(message) => sourced(cx, message, &sub(at, "sourced_metadata"))?,
        Rule::NotRule(rule) => Condition::Not(Box::new(permission(cx, rule, &sub(at, "not_rule"))?)),
        Rule::RequestedServerName(message) => {
            Condition::ServerName(matcher::string(message, &sub(at, "requested_server_name"))?)
        }
        Rule::Matcher(_) => return unsupported("matcher"),
        Rule::UriTemplate(message) => Condition::PathTemplate(template(message, &sub(at, "uri_template"))?.to_regex()),
    })
}

#[expect(deprecated, reason = "published configurations use some")]
fn principal(cx: &mut Context, message: &proto::Principal, at: &str) -> Result<Condition, Error> {
    let identifier = message.identifier.as_ref().ok_or_else(|| Error::at(at, "an identifier is required"))?;
    let unsupported = |field: &str| Err(Error::at(sub(at, field), "not supported yet"));
    let mut set = |ids: &[proto::Principal], field: &str| {
        let ids = ids.iter().enumerate();
        ids.map(|(index, id)| principal(cx, id, &item(&sub(at, field), "ids", index))).collect::<Result<_, Error>>()
    };
    Ok(match identifier {
        Identifier::AndIds(all) => Condition::And(set(&all.ids, "and_ids")?),
        Identifier::OrIds(any) => Condition::Or(set(&any.ids, "or_ids")?),
        Identifier::Any(_) => Condition::Any,
        Identifier::Authenticated(authenticated) => {
            let at = sub(&sub(at, "authenticated"), "principal_name");
            let name = authenticated.principal_name.as_ref();
            Condition::Authenticated(name.map(|name| matcher::string(name, &at)).transpose()?)
        }
        Identifier::SourceIp(range) => Condition::DirectRemoteIp(cidr(range, &sub(at, "source_ip"))?),
        Identifier::DirectRemoteIp(range) => Condition::DirectRemoteIp(cidr(range, &sub(at, "direct_remote_ip"))?),
        Identifier::RemoteIp(range) => Condition::RemoteIp(cidr(range, &sub(at, "remote_ip"))?),
        Identifier::Header(message) => Condition::Header(Box::new(matcher::header(cx, message, &sub(at, "header"))?)),
        Identifier::UrlPath(message) => Condition::UrlPath(url_path(message, &sub(at, "url_path"))?),
        Identifier::Metadata(message) => {
            Condition::Metadata(metadata::metadata_matcher(cx, message, &sub(at, "metadata"))?)
        }
        Identifier::SourcedMetadata(message) => sourced(cx, message, &sub(at, "sourced_metadata"))?,
        Identifier::NotId(id) => Condition::Not(Box::new(principal(cx, id, &sub(at, "not_id"))?)),
        Identifier::FilterState(message) => {
            let at = sub(at, "filter_state");
            match &message.matcher {
                Some(FilterStateMatcher::StringMatch(matcher)) => Condition::FilterState(
                    message.key.as_str().into(),
                    matcher::string(matcher, &sub(&at, "string_match"))?,
                ),
                Some(FilterStateMatcher::AddressMatch(_)) => {
                    return Err(Error::at(sub(&at, "address_match"), "not supported yet"));
                }
                None => return Err(Error::at(at, "expected one of string_match, address_match")),
            }
        }
        Identifier::Custom(_) => return unsupported("custom"),
    })
}

fn sourced(cx: &mut Context, message: &proto::SourcedMetadata, at: &str) -> Result<Condition, Error> {
    let matcher_at = sub(at, "metadata_matcher");
    let matcher = message.metadata_matcher.as_ref().ok_or_else(|| Error::at(&matcher_at, "a matcher is required"))?;
    let matcher = metadata::metadata_matcher(cx, matcher, &matcher_at)?;
    Ok(match message.metadata_source() {
        proto::MetadataSource::Dynamic => Condition::Metadata(matcher),
        proto::MetadataSource::Route => Condition::RouteMetadata(matcher),
    })
}

fn url_path(message: &weir_proto::envoy::r#type::matcher::v3::PathMatcher, at: &str) -> Result<StringMatcher, Error> {
    use weir_proto::envoy::r#type::matcher::v3::path_matcher::Rule;
    match &message.rule {
        Some(Rule::Path(message)) => matcher::string(message, &sub(at, "path")),
        None => Err(Error::at(sub(at, "path"), "a path is required")),
    }
}
