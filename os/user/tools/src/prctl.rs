//! `prctl`: reads and sets resource controls of zones.

use std::fmt::Write;

use control_abi::Operation;
use nv::NvList;

use crate::control::call;
use crate::rctl_value::{self, Scale};
use crate::usage::{self, Failure, Step};

pub const HELP: &str = "\
usage: prctl [-P] [-t PRIVILEGE] [-n NAME [-r | -s] [-v VALUE]] -i zone ZONE...

  -i zone     what the operands are (zones by name or id; the only kind there is)
  -n NAME     this control only
  -v VALUE    with -r or -s: set it, at once, on the running zone; suffixes K M G T, max
  -P          one line for each value: name privilege value flag action recipient
  -t LEVEL    show or set values of this privilege: privileged or system

Setting does not change the stored configuration: use zonecfg for the next boot.

examples:
  prctl -n zone.cpu-shares -i zone alpha
  prctl -n zone.cpu-shares -r -v 300 -i zone alpha
  prctl -P -i zone global
";

/// A control as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    pub name: String,
    pub scale: Scale,
    pub value: u64,
    pub most: u64,
    pub unlimited: Option<u64>,
    pub denies: bool,
    pub usage: Option<u64>,
}

impl Control {
    fn from_list(list: &NvList) -> Result<Self, nv::FieldError> {
        Ok(Self {
            name: list.string("name")?.to_owned(),
            scale: if list.string("unit")? == "bytes" { Scale::Bytes } else { Scale::Count },
            value: list.number("value")?,
            most: list.number("most")?,
            unlimited: list.opt_number("unlimited")?,
            denies: list.bool("denies")?,
            usage: list.opt_number("usage")?,
        })
    }

    /// Rows as (privilege, value, flag, action). A control at its system value has the system row only.
    fn rows(&self) -> Vec<(&'static str, u64, &'static str, &'static str)> {
        let action = if self.denies { "deny" } else { "none" };
        let mut rows = Vec::new();
        if Some(self.value) != self.unlimited {
            rows.push(("privileged", self.value, "-", action));
        }
        let flag = match self.unlimited {
            Some(unlimited) if unlimited == self.most => "max",
            Some(_) => "inf",
            None => "-",
        };
        rows.push(("system", self.most, flag, action));
        rows
    }
}

/// The readable block of one control (layout of prctl(1)).
#[must_use]
pub fn block(control: &Control, level: Option<&str>) -> String {
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("writing to a string");
    line(format_args!("{}", control.name));
    let value = |value| rctl_value::format(value, control.scale);
    if let Some(usage) = control.usage {
        line(format_args!("        {:<10} {:>9}", "usage", value(usage)));
    }
    for (privilege, number, flag, action) in control.rows() {
        if level.is_none_or(|level| level == privilege) {
            line(format_args!("        {privilege:<10} {:>9} {flag:>7}   {action:<35}-", value(number)));
        }
    }
    out
}

/// The lines for programs.
#[must_use]
pub fn parseable(control: &Control, level: Option<&str>) -> String {
    let mut out = String::new();
    for (privilege, number, flag, action) in control.rows() {
        if level.is_none_or(|level| level == privilege) {
            writeln!(out, "{} {privilege} {number} {flag} {action} -", control.name).expect("writing to a string");
        }
    }
    out
}

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    // As the original, options may follow operands only through their own order; `-i zone ID` ends the options.
    let (steps, operands) = usage::options(arguments, "Pt:n:srxv:e:d:p:i:")?;
    let (mut name, mut value, mut level, mut set, mut plain, mut kind) = (None, None, None, false, false, None);
    for step in steps {
        match step {
            Step::Flag('P') => plain = true,
            Step::Flag('s' | 'r') => set = true,
            Step::Value('n', text) => name = Some(text),
            Step::Value('v', text) => value = Some(text),
            Step::Value('t', text) => level = Some(text),
            Step::Value('i', text) => kind = Some(text),
            Step::Flag(letter) | Step::Value(letter, _) => {
                return Err(Failure::usage(format!("-{letter} is not offered: zone controls have one privileged value and a fixed action")));
            }
        }
    }
    match kind.as_deref() {
        Some("zone" | "zoneid") => {}
        Some(other) => return Err(Failure::usage(format!("-i {other}: only zones have resource controls here (-i zone)"))),
        None => return Err(Failure::usage("say what to look at: -i zone ZONE")),
    }
    if operands.is_empty() {
        return Err(Failure::usage("which zone? give its name or id"));
    }
    if set != value.is_some() || (set && name.is_none()) {
        return Err(Failure::usage("setting needs all of -n NAME, -r (or -s) and -v VALUE"));
    }
    for operand in &operands {
        let zone = NvList::new();
        let zone = match operand.parse::<u64>() {
            Ok(id) => zone.with("zone", id),
            Err(_) => zone.with("zone", operand.as_str()),
        };
        let failed = |refused: crate::control::Refused| Failure::new(format!("{operand}: {}", refused.message));
        if let (Some(name), Some(text)) = (&name, &value) {
            let current = call(Operation::RctlGet, &zone.clone().with("name", name.as_str())).map_err(failed)?;
            let control = Control::from_list(&current).map_err(Failure::new)?;
            let wanted = match text.as_str() {
                "max" => control.most,
                text => rctl_value::parse(text, control.scale).map_err(Failure::usage)?,
            };
            call(Operation::RctlSet, &zone.with("name", name.as_str()).with("value", wanted)).map_err(failed)?;
            continue;
        }
        let info = call(Operation::ZoneGet, &zone).map_err(failed)?;
        let reply = call(Operation::RctlList, &zone).map_err(failed)?;
        let mut out = String::new();
        if !plain {
            let id = info.number("id").map_err(Failure::new)?;
            out.push_str(&format!("zone: {id}: {}\n", info.string("name").map_err(Failure::new)?));
            out.push_str("NAME    PRIVILEGE       VALUE    FLAG   ACTION                       RECIPIENT\n");
        }
        let mut shown = 0;
        for list in reply.lists("rctls").map_err(Failure::new)? {
            let control = Control::from_list(list).map_err(Failure::new)?;
            if name.as_ref().is_none_or(|name| *name == control.name) {
                out.push_str(&if plain { parseable(&control, level.as_deref()) } else { block(&control, level.as_deref()) });
                shown += 1;
            }
        }
        if shown == 0 {
            return Err(Failure::new(format!("no resource control '{}'; 'prctl -P -i zone {operand}' lists them", name.unwrap_or_default())));
        }
        usage::print(&out);
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap() -> Control {
        Control {
            name: "zone.cpu-cap".to_owned(),
            scale: Scale::Count,
            value: 200,
            most: 4_294_967_295,
            unlimited: Some(4_294_967_295),
            denies: true,
            usage: Some(12),
        }
    }

    #[test]
    fn the_block_has_the_layout_of_prctl() {
        let expected = "\
zone.cpu-cap
        usage             12
        privileged       200       -   deny                               -
        system         4.29G     max   deny                               -
";
        assert_eq!(block(&cap(), None), expected);
    }

    #[test]
    fn parseable_lines_have_six_fields_and_whole_numbers() {
        let text = parseable(&cap(), None);
        assert_eq!(text, "zone.cpu-cap privileged 200 - deny -\nzone.cpu-cap system 4294967295 max deny -\n");
        assert_eq!(parseable(&cap(), Some("privileged")).lines().count(), 1);
    }

    #[test]
    fn an_unlimited_control_shows_only_the_system_value() {
        let control = Control { value: 4_294_967_295, ..cap() };
        assert_eq!(parseable(&control, None), "zone.cpu-cap system 4294967295 max deny -\n");
    }
}
