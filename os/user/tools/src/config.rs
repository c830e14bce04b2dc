//! The configuration of a zone and its XML file (layout of zonecfg(8)).

use std::fmt::Write;

use crate::rctl_value::{self, Scale};

/// A named value for the tenant or the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    pub name: String,
    /// `string`, `int`, `uint` or `boolean`.
    pub kind: String,
    pub value: String,
}

/// A resource control's setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RctlSetting {
    pub name: String,
    pub limit: u64,
}

/// Everything zonecfg knows about a zone.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ZoneConfig {
    pub name: String,
    pub zonepath: String,
    pub brand: String,
    pub autoboot: bool,
    pub bootargs: String,
    pub hostname: String,
    /// Program started first, as the zone sees it; empty: the system's own zinit.
    pub init: String,
    /// Root tree that `zoneadm install` copies; empty: given with -t.
    pub tree: String,
    pub uuid: String,
    pub did: u32,
    pub rctls: Vec<RctlSetting>,
    pub attrs: Vec<Attr>,
    /// Data sets of pools that the zone administers.
    pub datasets: Vec<String>,
    /// Volumes that the zone has as devices: `/dev/zvol/...`.
    pub devices: Vec<String>,
}

/// Where volumes are.
pub const VOLUMES: &str = "/dev/zvol/";

/// The controls that can be configured, their short forms as global properties, and how their values read.
pub const RCTLS: &[(&str, &str, Scale)] = &[
    ("zone.cpu-shares", "cpu-shares", Scale::Count),
    ("zone.cpu-cap", "cpu-cap", Scale::Count),
    ("zone.max-processes", "max-processes", Scale::Count),
    ("zone.max-lwps", "max-lwps", Scale::Count),
    ("zone.max-physical-memory", "max-physical-memory", Scale::Bytes),
    ("zone.zfs-io-priority", "zfs-io-priority", Scale::Count),
];

/// What a control does at its value: shares only weigh.
fn action(rctl: &str) -> &'static str {
    if matches!(rctl, "zone.cpu-shares" | "zone.zfs-io-priority") { "none" } else { "deny" }
}

/// Checks a zone name; the message says the rule.
///
/// # Errors
/// The name breaks it.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && name != "global"
        && !name.starts_with("SUNW");
    if fits {
        Ok(())
    } else {
        Err(format!(
            "'{name}' is not a zone name: 1 to 63 of letters, digits, '-', '_', '.', starting with a letter or digit; 'global' and names that begin with 'SUNW' are reserved"
        ))
    }
}

impl ZoneConfig {
    /// A new configuration with defaults.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), zonepath: format!("/zones/{name}"), brand: "lx".to_owned(), ..Self::default() }
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> String {
        format!("{}/root", self.zonepath)
    }

    /// The setting of a control.
    #[must_use]
    pub fn rctl(&self, name: &str) -> Option<u64> {
        self.rctls.iter().find(|rctl| rctl.name == name).map(|rctl| rctl.limit)
    }

    /// Sets a control.
    ///
    /// # Errors
    /// No such control.
    pub fn set_rctl(&mut self, name: &str, limit: u64) -> Result<(), String> {
        if !RCTLS.iter().any(|(known, _, _)| *known == name) {
            let names: Vec<&str> = RCTLS.iter().map(|(known, _, _)| *known).collect();
            return Err(format!("no resource control '{name}'; there are: {}", names.join(" ")));
        }
        match self.rctls.iter_mut().find(|rctl| rctl.name == name) {
            Some(rctl) => rctl.limit = limit,
            None => self.rctls.push(RctlSetting { name: name.to_owned(), limit }),
        }
        Ok(())
    }

    /// What must hold before a configuration is stored.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn verify(&self) -> Result<(), String> {
        check_name(&self.name)?;
        let path_fits = self.zonepath.starts_with('/') && self.zonepath.len() > 1 && !self.zonepath.split('/').any(|part| part == "..");
        if !path_fits || self.zonepath.contains([':', '\n']) {
            return Err(format!("zonepath '{}' must be an absolute path without '..' and ':'", self.zonepath));
        }
        if self.brand != "lx" {
            return Err(format!("brand '{}' is not known here; use lx (a root tree of Linux programs)", self.brand));
        }
        let texts = [&self.zonepath, &self.bootargs, &self.hostname, &self.init, &self.tree];
        let attrs = self.attrs.iter().flat_map(|attr| [&attr.name, &attr.value]);
        if let Some(text) = texts.into_iter().chain(attrs).find(|text| text.chars().any(char::is_control)) {
            return Err(format!("{text:?}: values cannot contain control characters"));
        }
        if let Some(dataset) = self.datasets.iter().find(|dataset| dataset.is_empty() || dataset.contains(['@', '#', '"', '%']) || dataset.starts_with('/') || dataset.chars().any(char::is_control)) {
            return Err(format!("dataset '{dataset}' must be a file system or volume of a pool, such as tank/alpha"));
        }
        if let Some(device) = self.devices.iter().find(|device| device.strip_prefix(VOLUMES).is_none_or(|name| name.is_empty() || name.contains(['@', '#', '*', '"']) || name.chars().any(char::is_control))) {
            return Err(format!("device '{device}' must be a volume of a pool, such as {VOLUMES}tank/disk"));
        }
        if !self.init.is_empty() && !self.init.starts_with('/') {
            return Err(format!("init '{}' must be an absolute path inside the zone", self.init));
        }
        Ok(())
    }

    /// The XML file.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<zone");
        let mut attribute = |name: &str, value: &str| {
            write!(out, " {name}=\"{}\"", escape(value)).expect("writing to a string");
        };
        attribute("name", &self.name);
        attribute("zonepath", &self.zonepath);
        attribute("autoboot", if self.autoboot { "true" } else { "false" });
        attribute("brand", &self.brand);
        attribute("debugid", &self.did.to_string());
        attribute("uuid", &self.uuid);
        for (name, value) in [("bootargs", &self.bootargs), ("hostname", &self.hostname), ("init", &self.init), ("tree", &self.tree)] {
            if !value.is_empty() {
                attribute(name, value);
            }
        }
        out.push_str(">\n");
        for rctl in &self.rctls {
            let action = action(&rctl.name);
            writeln!(
                out,
                "  <rctl name=\"{}\">\n    <rctl-value priv=\"privileged\" limit=\"{}\" action=\"{action}\"/>\n  </rctl>",
                escape(&rctl.name),
                rctl.limit
            )
            .expect("writing to a string");
        }
        for attr in &self.attrs {
            writeln!(out, "  <attr name=\"{}\" type=\"{}\" value=\"{}\"/>", escape(&attr.name), escape(&attr.kind), escape(&attr.value))
                .expect("writing to a string");
        }
        for dataset in &self.datasets {
            writeln!(out, "  <dataset name=\"{}\"/>", escape(dataset)).expect("writing to a string");
        }
        for device in &self.devices {
            writeln!(out, "  <device match=\"{}\"/>", escape(device)).expect("writing to a string");
        }
        out.push_str("</zone>\n");
        out
    }

    /// Parses the XML file.
    ///
    /// # Errors
    /// What is wrong, with line and column.
    pub fn from_xml(text: &str) -> Result<Self, String> {
        let document = roxmltree::Document::parse(text).map_err(|error| error.to_string())?;
        let at = |node: roxmltree::Node<'_, '_>, what: String| {
            let position = document.text_pos_at(node.range().start);
            format!("line {}, column {}: {what}", position.row, position.col)
        };
        let zone = document.root_element();
        if zone.tag_name().name() != "zone" {
            return Err(at(zone, format!("expected <zone>, found <{}>", zone.tag_name().name())));
        }
        let mut config = Self::default();
        for attribute in zone.attributes() {
            let value = attribute.value().to_owned();
            match attribute.name() {
                "name" => config.name = value,
                "zonepath" => config.zonepath = value,
                "brand" => config.brand = value,
                "bootargs" => config.bootargs = value,
                "hostname" => config.hostname = value,
                "init" => config.init = value,
                "tree" => config.tree = value,
                "uuid" => config.uuid = value,
                "autoboot" => config.autoboot = parse_bool(&value).map_err(|error| at(zone, error))?,
                "debugid" => config.did = value.parse().map_err(|_| at(zone, format!("debugid '{value}' is not a number")))?,
                other => return Err(at(zone, format!("unknown attribute '{other}'"))),
            }
        }
        for node in zone.children().filter(roxmltree::Node::is_element) {
            let wanted = |name: &str| node.attribute(name).map(str::to_owned).ok_or_else(|| at(node, format!("attribute '{name}' is missing")));
            match node.tag_name().name() {
                "rctl" => {
                    let name = wanted("name")?;
                    let value = node
                        .children()
                        .find(|child| child.tag_name().name() == "rctl-value")
                        .ok_or_else(|| at(node, "rctl without rctl-value".to_owned()))?;
                    let limit = value.attribute("limit").unwrap_or("");
                    let limit = limit.parse().map_err(|_| at(value, format!("limit '{limit}' is not a number")))?;
                    config.set_rctl(&name, limit).map_err(|error| at(node, error))?;
                }
                "attr" => config.attrs.push(Attr { name: wanted("name")?, kind: wanted("type")?, value: wanted("value")? }),
                "dataset" => config.datasets.push(wanted("name")?),
                "device" => config.devices.push(wanted("match")?),
                other => return Err(at(node, format!("unknown element <{other}>"))),
            }
        }
        config.verify()?;
        Ok(config)
    }

    /// The commands that make this configuration again (`zonecfg export`).
    #[must_use]
    pub fn export(&self) -> String {
        let mut out = String::from("create -b\n");
        let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("writing to a string");
        line(format_args!("set zonepath={}", quote(&self.zonepath)));
        line(format_args!("set brand={}", self.brand));
        line(format_args!("set autoboot={}", self.autoboot));
        for (name, value) in [("bootargs", &self.bootargs), ("hostname", &self.hostname), ("init", &self.init), ("tree", &self.tree)] {
            if !value.is_empty() {
                line(format_args!("set {name}={}", quote(value)));
            }
        }
        for rctl in &self.rctls {
            let action = action(&rctl.name);
            line(format_args!("add rctl\nset name={}\nadd value (priv=privileged,limit={},action={action})\nend", rctl.name, rctl.limit));
        }
        for attr in &self.attrs {
            line(format_args!("add attr\nset name={}\nset type={}\nset value={}\nend", quote(&attr.name), attr.kind, quote(&attr.value)));
        }
        for dataset in &self.datasets {
            line(format_args!("add dataset\nset name={}\nend", quote(dataset)));
        }
        for device in &self.devices {
            line(format_args!("add device\nset match={}\nend", quote(device)));
        }
        out
    }

    /// The configuration for people (`zonecfg info`).
    #[must_use]
    pub fn info(&self) -> String {
        let mut out = String::new();
        let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("writing to a string");
        line(format_args!("zonename: {}", self.name));
        line(format_args!("zonepath: {}", self.zonepath));
        line(format_args!("brand: {}", self.brand));
        line(format_args!("autoboot: {}", self.autoboot));
        line(format_args!("bootargs: {}", self.bootargs));
        line(format_args!("hostname: {}", self.hostname));
        line(format_args!("init: {}", self.init));
        line(format_args!("tree: {}", self.tree));
        line(format_args!("uuid: {}", self.uuid));
        line(format_args!("debugid: {}", self.did));
        for rctl in &self.rctls {
            let scale = RCTLS.iter().find(|(name, _, _)| *name == rctl.name).map_or(Scale::Count, |(_, _, scale)| *scale);
            let action = action(&rctl.name);
            line(format_args!("rctl:\n\tname: {}", rctl.name));
            line(format_args!("\tvalue: (priv=privileged,limit={},action={action})", rctl_value::format(rctl.limit, scale)));
        }
        for attr in &self.attrs {
            line(format_args!("attr:\n\tname: {}\n\ttype: {}\n\tvalue: {}", attr.name, attr.kind, quote(&attr.value)));
        }
        for dataset in &self.datasets {
            line(format_args!("dataset:\n\tname: {dataset}"));
        }
        for device in &self.devices {
            line(format_args!("device:\n\tmatch: {device}"));
        }
        out
    }
}

/// Parses `true` or `false`.
///
/// # Errors
/// Neither.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("'{text}' must be true or false"))
}

fn quote(text: &str) -> String {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:,@+%".contains(&b)) {
        text.to_owned()
    } else {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ZoneConfig {
        let mut config = ZoneConfig::new("web-01");
        config.autoboot = true;
        config.uuid = "7d3cd5a4-3ec5-4f8e-b7ae-4ef2b7d0d4bb".to_owned();
        config.did = 7;
        config.hostname = "web".to_owned();
        config.set_rctl("zone.cpu-shares", 300).expect("known");
        config.set_rctl("zone.max-physical-memory", 512 << 20).expect("known");
        config.datasets.push("tank/web".to_owned());
        config.devices.push("/dev/zvol/tank/disk".to_owned());
        config.attrs.push(Attr { name: "alias".to_owned(), kind: "string".to_owned(), value: "a \"b\" <c> & d".to_owned() });
        config
    }

    #[test]
    fn xml_round_trips() {
        let config = sample();
        assert_eq!(ZoneConfig::from_xml(&config.to_xml()), Ok(config));
    }

    #[test]
    fn export_makes_the_same_configuration_again() {
        let config = sample();
        let mut again = ZoneConfig::new("web-01");
        crate::zonecfg::run_script(&mut again, &config.export()).expect("export is valid input");
        again.uuid.clone_from(&config.uuid);
        again.did = config.did;
        assert_eq!(again, config);
    }

    #[test]
    fn bad_files_name_line_and_column() {
        for (text, message) in [
            ("<zone name=\"a\" zonepath=\"/z\" brand=\"lx\">\n  <net/>\n</zone>", "line 2, column 3: unknown element <net>"),
            ("<zone name=\"a\" zonepath=\"/z\" brand=\"lx\" pool=\"p\"/>", "line 1, column 1: unknown attribute 'pool'"),
            ("<host/>", "line 1, column 1: expected <zone>, found <host>"),
            ("<zone name=\"a\" zonepath=\"/z\" brand=\"lx\">\n<rctl name=\"zone.cpu-shares\"/></zone>", "line 2, column 1: rctl without rctl-value"),
        ] {
            assert_eq!(ZoneConfig::from_xml(text), Err(message.to_owned()));
        }
        assert!(ZoneConfig::from_xml("<zone").is_err());
        assert!(ZoneConfig::from_xml("<zone name=\"../x\" zonepath=\"/z\" brand=\"lx\"/>").is_err());
    }

    #[test]
    fn names_follow_the_rules() {
        for good in ["a", "web-01", "7d3cd5a4-3ec5-4f8e-b7ae-4ef2b7d0d4bb", "A.b_c"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "-a", ".a", "global", "SUNWx", "a/b", "a b", "a:b", "ä", &long] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
