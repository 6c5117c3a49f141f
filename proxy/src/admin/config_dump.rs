//! `/config_dump`: the configuration as it was given, as proto3 JSON with the field names of the `.proto` files.
//! Secrets are redacted.

use std::time::SystemTime;

use jiff::Timestamp;
use prost::{Message, Name};
use serde_json::{Map, Value, json};
use weir_proto::envoy::{
    config::{bootstrap::v3::bootstrap::StaticResources, listener::v3::Listener},
    extensions::filters::network::http_connection_manager::v3::{HttpConnectionManager, http_connection_manager},
};

use super::{
    clusters,
    mask::Mask,
    query::Query,
    reply::{Reply, Status},
    state::Admin,
};
use crate::matcher::Regex;

const ADMIN: &str = "envoy.admin.v3";
/// What stands for a secret.
const REDACTED: &str = "[redacted]";
/// The same where bytes are shown, as base64.
const REDACTED_BYTES: &str = "W3JlZGFjdGVkXQ==";
/// Fields that hold secrets, whatever is in them.
const SENSITIVE: [&str; 4] = ["private_key", "password", "session_ticket_keys", "generic_secret"];

/// One message of the dump.
struct Part {
    /// Its type in `envoy.admin.v3`.
    name: &'static str,
    fields: Map<String, Value>,
}

impl Part {
    fn new(name: &'static str) -> Self {
        Self { name, fields: Map::new() }
    }

    fn list(mut self, field: &str, items: Vec<Value>) -> Self {
        if !items.is_empty() {
            self.fields.insert(field.to_owned(), items.into());
        }
        self
    }

    fn value(&self) -> Value {
        let mut all = Map::new();
        all.insert("@type".into(), format!("type.googleapis.com/{ADMIN}.{}", self.name).into());
        all.extend(self.fields.clone());
        all.into()
    }
}

pub(super) fn answer(admin: &Admin, query: &Query) -> Reply {
    let names = match query.get("name_regex").map(Regex::new).transpose() {
        Ok(names) => names,
        Err(error) => {
            let pattern = query.get("name_regex").unwrap_or_default();
            return plain(
                Status::BAD_REQUEST,
                format!("INVALID_ARGUMENT: Error while parsing name_regex from {pattern}: {error}"),
            );
        }
    };
    let mask = query.get("mask").filter(|mask| !mask.is_empty());
    let parts = parts(admin, query.get("include_eds").is_some(), names.as_ref());
    let configs = match (query.get("resource"), mask) {
        (Some(resource), mask) => match elements(&parts, resource, mask) {
            Ok(elements) => elements,
            Err(refusal) => return refusal,
        },
        (None, Some(text)) => {
            let mask = Mask::parse(text);
            let fitting = parts.iter().filter(|part| mask.fits(&format!("{ADMIN}.{}", part.name)));
            let masked: Vec<_> = fitting.map(|part| mask.apply(&part.value())).collect();
            if masked.is_empty() {
                let text = format!("FieldMask {text} could not be successfully applied to any configs.");
                return plain(Status::BAD_REQUEST, text);
            }
            masked
        }
        (None, None) => parts.iter().map(Part::value).collect(),
    };
    let mut dump = Map::new();
    if !configs.is_empty() {
        dump.insert("configs".into(), configs.into());
    }
    Reply::pretty(&dump.into())
}

fn plain(status: Status, text: String) -> Reply {
    Reply { status, content_type: "text/plain", body: text, counted: false }
}

/// The items of the list `resource` of the dump.
fn elements(parts: &[Part], resource: &str, mask: Option<&str>) -> Result<Vec<Value>, Reply> {
    let pool = weir_proto::pool();
    for part in parts {
        let Some(message) = pool.get_message_by_name(&format!("{ADMIN}.{}", part.name)) else { continue };
        let Some(field) = message.get_field_by_name(resource) else { continue };
        let kind = field.kind();
        let Some(element) = kind.as_message().filter(|_| field.is_list()) else {
            let text = format!("{resource} is not a repeated field. Use ?mask={resource} to get only this field");
            return Err(plain(Status::BAD_REQUEST, text));
        };
        let typed = |item: &Value| {
            let mut all = Map::new();
            all.insert("@type".into(), format!("type.googleapis.com/{}", element.full_name()).into());
            all.extend(item.as_object().cloned().unwrap_or_default());
            Value::Object(all)
        };
        let items = part.fields.get(resource).and_then(Value::as_array);
        let mut items: Vec<_> = items.into_iter().flatten().map(typed).collect();
        if let Some(text) = mask {
            let mask = Mask::parse(text);
            if !mask.fits(element.full_name()) && !items.is_empty() {
                return Err(plain(Status::BAD_REQUEST, format!("FieldMask {text} could not be successfully used.")));
            }
            items = items.iter().map(|item| mask.apply(item)).collect();
        }
        return Ok(items);
    }
    Err(plain(Status::NOT_FOUND, format!("{resource} not found in config dump")))
}

fn parts(admin: &Admin, endpoints: bool, names: Option<&Regex>) -> Vec<Part> {
    let updated = time(admin.loaded);
    let none = StaticResources::default();
    let resources = admin.bootstrap.static_resources.as_ref().unwrap_or(&none);
    let wanted = |name: &str| names.is_none_or(|names| names.is_match(name.as_bytes()));
    let mut bootstrap = Part::new("BootstrapConfigDump");
    bootstrap.fields.insert("bootstrap".into(), shown(&*admin.bootstrap));
    bootstrap.fields.insert("last_updated".into(), updated.clone().into());
    let item = |field: &str, value: Value| json!({field: value, "last_updated": updated});
    let static_clusters =
        resources.clusters.iter().filter(|cluster| wanted(&cluster.name)).map(|cluster| item("cluster", any(cluster)));
    let static_listeners = resources
        .listeners
        .iter()
        .filter(|listener| wanted(&listener.name))
        .map(|listener| item("listener", any(listener)));
    let routes = resources.listeners.iter().flat_map(managers).filter_map(|manager| match manager.route_specifier {
        Some(http_connection_manager::RouteSpecifier::RouteConfig(routes)) => Some(routes),
        _ => None,
    });
    let static_routes = routes.filter(|routes| wanted(&routes.name)).map(|routes| item("route_config", any(&routes)));
    let static_secrets = resources
        .secrets
        .iter()
        .filter(|secret| wanted(&secret.name))
        .map(|secret| json!({"name": secret.name, "last_updated": updated, "secret": any(secret)}));
    let mut parts = vec![bootstrap, Part::new("ClustersConfigDump").list("static_clusters", static_clusters.collect())];
    if endpoints {
        let snapshot = admin.snapshot.load();
        let views = clusters::views(&snapshot).into_iter().filter(|view| wanted(&view.name));
        let configs = views.map(|view| json!({"endpoint_config": view.load_assignment()}));
        parts.push(Part::new("EndpointsConfigDump").list("static_endpoint_configs", configs.collect()));
    }
    parts.push(Part::new("ListenersConfigDump").list("static_listeners", static_listeners.collect()));
    parts.push(Part::new("ScopedRoutesConfigDump"));
    parts.push(Part::new("RoutesConfigDump").list("static_route_configs", static_routes.collect()));
    parts.push(Part::new("SecretsConfigDump").list("static_secrets", static_secrets.collect()));
    parts
}

/// The HTTP connection managers of a listener.
fn managers(listener: &Listener) -> impl Iterator<Item = HttpConnectionManager> + '_ {
    use weir_proto::envoy::config::listener::v3::filter::ConfigType;
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    chains.flat_map(|chain| &chain.filters).filter_map(|filter| match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => weir_proto::unpack(any).ok(),
        _ => None,
    })
}

/// As RFC 3339 with milliseconds.
fn time(at: SystemTime) -> String {
    let time = Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// A message as JSON, its secrets redacted.
fn shown<M: Message + Name>(message: &M) -> Value {
    let mut value = weir_proto::to_json(message).unwrap_or_else(|error| error.to_string().into());
    redact(&mut value, false);
    value
}

/// A message inside an `Any`.
fn any<M: Message + Name>(message: &M) -> Value {
    let mut all = Map::new();
    all.insert("@type".into(), format!("type.googleapis.com/{}", M::full_name()).into());
    if let Value::Object(fields) = shown(message) {
        all.extend(fields);
    }
    all.into()
}

fn redact(value: &mut Value, secret: bool) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut().filter(|(name, _)| *name != "@type") {
                if secret && name == "inline_bytes" {
                    *field = REDACTED_BYTES.into();
                    continue;
                }
                redact(field, secret || SENSITIVE.contains(&&**name));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, secret)),
        Value::String(text) if secret => *text = REDACTED.to_owned(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_redacted_wherever_they_are() {
        let mut value = json!({"tls_certificates": [{
            "certificate_chain": {"inline_string": "public"},
            "private_key": {"inline_string": "secret"},
            "password": {"inline_bytes": "c2VjcmV0"},
        }], "private_key": {"filename": "/key"}});
        redact(&mut value, false);
        let text = value.to_string();
        assert!(
            text.contains("public") && !text.contains("secret") && !text.contains("c2VjcmV0") && !text.contains("/key"),
            "{text}"
        );
        assert_eq!(value["tls_certificates"][0]["password"]["inline_bytes"], REDACTED_BYTES);
    }
}
