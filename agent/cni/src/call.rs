//! How the container runtime calls: variables of the environment.

use std::collections::BTreeMap;

use crate::error::{Code, Error};

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A sandbox was made.
    Add,
    /// A sandbox is taken down.
    Del,
    /// Is it still as it was made?
    Check,
    /// Is the plugin able to serve calls?
    Status,
    /// Which versions does it know?
    Version,
    /// Leave nothing of sandboxes that are not listed.
    Gc,
}

const COMMANDS: [(&str, Command); 6] = [
    ("ADD", Command::Add),
    ("DEL", Command::Del),
    ("CHECK", Command::Check),
    ("STATUS", Command::Status),
    ("VERSION", Command::Version),
    ("GC", Command::Gc),
];

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What for.
    pub command: Command,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_ARGS`.
    pub arguments: Arguments,
}

/// What the runtime says of the pod. All empty for a sandbox that Kubernetes has not made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`.
    pub uid: String,
}

impl Arguments {
    /// Reads `KEY=VALUE;KEY=VALUE`. What is neither is of no concern here.
    pub fn parse(text: &str) -> Self {
        let pairs: BTreeMap<&str, &str> = text.split(';').filter_map(|pair| pair.trim().split_once('=')).collect();
        let value = |key| pairs.get(key).copied().unwrap_or_default().to_owned();
        Self { namespace: value("K8S_POD_NAMESPACE"), name: value("K8S_POD_NAME"), uid: value("K8S_POD_UID") }
    }
}

impl Call {
    /// Reads the environment. A DEL needs nothing of it but itself: it must not fail.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let wrong = |message: String| Error::new(Code::Environment, message);
        let known = || COMMANDS.map(|(name, _)| name).join(", ");
        let text = variable("CNI_COMMAND").filter(|text| !text.is_empty()).ok_or_else(|| {
            wrong(format!("CNI_COMMAND: missing, expected one of {}: weir-cni is run by container runtimes", known()))
        })?;
        let command = COMMANDS.iter().find(|(name, _)| *name == text).map(|(_, command)| *command);
        let command =
            command.ok_or_else(|| wrong(format!("CNI_COMMAND: invalid {text:?}, expected one of {}", known())))?;
        let value = |name: &str| variable(name).unwrap_or_default();
        let needed: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Command::Del | Command::Status | Command::Version | Command::Gc => &[],
        };
        if let Some(missing) = needed.iter().find(|name| value(name).is_empty()) {
            return Err(wrong(format!("{missing}: missing, {text} needs it")));
        }
        Ok(Self {
            command,
            container_id: value("CNI_CONTAINERID"),
            netns: value("CNI_NETNS"),
            arguments: Arguments::parse(&value("CNI_ARGS")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(variables: &[(&str, &str)]) -> Result<Call, String> {
        let value = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        Call::of(value).map_err(|error| {
            assert_eq!(error.code, Code::Environment);
            error.message
        })
    }

    #[test]
    fn a_call_is_read_as_containerd_makes_it() {
        let call = call(&[
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/var/run/netns/cni-1"),
            ("CNI_IFNAME", "eth0"),
            (
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;\
                 K8S_POD_UID=u-1",
            ),
        ])
        .unwrap();
        assert_eq!((call.command, call.container_id.as_str()), (Command::Add, "c1"));
        assert_eq!(call.netns, "/var/run/netns/cni-1");
        let expected = Arguments { namespace: "demo".to_owned(), name: "web-0".to_owned(), uid: "u-1".to_owned() };
        assert_eq!(call.arguments, expected);
        assert_eq!(Arguments::parse("nonsense;;=;K8S_POD_NAME"), Arguments::default());
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            call(&[]).unwrap_err(),
            "CNI_COMMAND: missing, expected one of ADD, DEL, CHECK, STATUS, VERSION, GC: weir-cni is run by container \
             runtimes"
        );
        assert_eq!(
            call(&[("CNI_COMMAND", "add")]).unwrap_err(),
            "CNI_COMMAND: invalid \"add\", expected one of ADD, DEL, CHECK, STATUS, VERSION, GC"
        );
        assert_eq!(
            call(&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c")]).unwrap_err(),
            "CNI_NETNS: missing, ADD needs it"
        );
        assert_eq!(
            call(&[("CNI_COMMAND", "CHECK"), ("CNI_CONTAINERID", "c"), ("CNI_NETNS", "/n")]).unwrap_err(),
            "CNI_IFNAME: missing, CHECK needs it"
        );
        call(&[("CNI_COMMAND", "DEL")]).unwrap();
    }
}
