//! Parses values of parameters as the server does (PostgreSQL's `guc.c`).

use super::known_parameters::Parameter;

/// Units of memory, in bytes. They are case-sensitive.
const MEMORY: &[(&str, f64)] = &[
    ("B", 1.0),
    ("kB", 1024.0),
    ("MB", 1_048_576.0),
    ("GB", 1_073_741_824.0),
    ("TB", 1_099_511_627_776.0),
];

/// Units of time, in microseconds.
const TIME: &[(&str, f64)] = &[
    ("us", 1.0),
    ("ms", 1e3),
    ("s", 1e6),
    ("min", 60e6),
    ("h", 3600e6),
    ("d", 86400e6),
];

/// Checks a value for a parameter. The error continues a sentence that begins with the name of
/// the parameter.
pub(crate) fn check(setting: &Parameter, given: &str) -> Result<(), String> {
    match setting.kind.as_str() {
        "bool" if boolean(given) => Ok(()),
        "bool" => Err("must be `on` or `off`".to_owned()),
        "enum" => choice(setting.choices.as_deref().unwrap_or_default(), given),
        "integer" => {
            let number = number(given, setting.unit.as_deref())?.round();
            in_range(setting, number)
        }
        "real" => in_range(setting, number(given, setting.unit.as_deref())?),
        _ => Ok(()),
    }
}

/// Whether PostgreSQL reads the word as a boolean. It accepts unique prefixes, `1` and `0`.
fn boolean(given: &str) -> bool {
    let word = given.to_ascii_lowercase();
    let short = |whole: &str, least: usize| word.len() >= least && whole.starts_with(&word);
    short("true", 1)
        || short("false", 1)
        || short("yes", 1)
        || short("no", 1)
        || short("on", 2)
        || short("off", 2)
        || word == "1"
        || word == "0"
}

fn choice(choices: &[String], given: &str) -> Result<(), String> {
    let is = |choice: &String| choice.eq_ignore_ascii_case(given);
    // An enum with `on` and `off` also accepts the other words for them, which it does not list.
    let switch = choices.iter().any(|choice| choice == "on") && boolean(given);
    if choices.iter().any(is) || switch {
        return Ok(());
    }
    Err(format!("must be one of: {}", choices.join(", ")))
}

/// Parses a number and converts it to the parameter's unit.
fn number(given: &str, unit: Option<&str>) -> Result<f64, String> {
    let malformed = || match unit {
        None => "must be a number without a unit".to_owned(),
        Some(unit) => format!("must be a number, with or without a unit that fits {unit}"),
    };
    let text = given.trim();
    let (value, suffix) = hexadecimal(text)
        .or_else(|| decimal(text))
        .ok_or_else(malformed)?;
    let suffix = suffix.trim();
    if suffix.is_empty() {
        return Ok(value);
    }
    let unit = unit.ok_or_else(malformed)?;
    let (base, units) = base(unit).ok_or_else(malformed)?;
    let known = units.iter().find(|(name, _)| *name == suffix);
    let (_, factor) = known.ok_or_else(malformed)?;
    Ok(value * factor / base)
}

/// Size of a parameter's unit, which may be a multiple such as `8kB`, and the units of its kind.
fn base(unit: &str) -> Option<(f64, &'static [(&'static str, f64)])> {
    let digits = unit.find(|c: char| !c.is_ascii_digit())?;
    let (count, name) = unit.split_at(digits);
    let count = if count.is_empty() {
        1.0
    } else {
        count.parse().ok()?
    };
    [MEMORY, TIME].into_iter().find_map(|units| {
        let (_, factor) = units.iter().find(|(known, _)| *known == name)?;
        Some((count * factor, units))
    })
}

fn hexadecimal(text: &str) -> Option<(f64, &str)> {
    let (sign, digits) = signed(text);
    let digits = digits.strip_prefix("0x").or(digits.strip_prefix("0X"))?;
    let end = digits
        .find(|c: char| !c.is_ascii_hexdigit())
        .unwrap_or(digits.len());
    let (number, rest) = digits.split_at_checked(end)?;
    let number = u32::from_str_radix(number, 16).ok()?;
    Some((sign * f64::from(number), rest))
}

fn decimal(text: &str) -> Option<(f64, &str)> {
    let (sign, digits) = signed(text);
    let mut end = digits
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(digits.len());
    let rest = digits.get(end..)?;
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let (_, power) = signed(exponent);
        let length = power
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(power.len());
        if length > 0 {
            end += 1 + (exponent.len() - power.len()) + length;
        }
    }
    let (number, rest) = digits.split_at_checked(end)?;
    Some((sign * number.parse::<f64>().ok()?, rest))
}

fn signed(text: &str) -> (f64, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn in_range(setting: &Parameter, number: f64) -> Result<(), String> {
    let bound = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<f64>().ok());
    let low = bound(&setting.least).is_some_and(|least| number < least);
    let high = bound(&setting.most).is_some_and(|most| number > most);
    if !low && !high && number.is_finite() {
        return Ok(());
    }
    let unit = setting.unit.as_deref().unwrap_or_default();
    let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "any".to_owned());
    let mut range = format!(
        "must be from {} to {}",
        shown(&setting.least),
        shown(&setting.most)
    );
    if !unit.is_empty() {
        range.push_str(&format!(", in units of {unit}"));
    }
    Err(range)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn setting(kind: &str, unit: Option<&str>, least: &str, most: &str) -> Parameter {
        Parameter {
            name: "x".into(),
            unit: unit.map(Into::into),
            kind: kind.into(),
            least: Some(least.into()),
            most: Some(most.into()),
            choices: Some(vec!["on".into(), "off".into(), "remote_apply".into()]),
            context: "user".into(),
        }
    }

    #[test]
    fn numbers_are_read_in_their_unit() {
        let buffers = setting("integer", Some("8kB"), "16", "1073741823");
        for good in [
            "128kB", "16", "1GB", " 32 MB ", "0x10", "16.4", "1.5MB", "2e2",
        ] {
            check(&buffers, good).unwrap();
        }
        for bad in [
            "120kB", "15", "1gb", "1s", "", "MB", "1 1", "16TB", "--1", "1e", "nan",
        ] {
            assert!(check(&buffers, bad).is_err(), "{bad}");
        }
        let timeout = setting("integer", Some("ms"), "0", "2147483647");
        check(&timeout, "1.5h").unwrap();
        assert!(check(&timeout, "25d").is_err());
        assert!(check(&timeout, "-1").is_err());
        let connections = setting("integer", None, "1", "262143");
        check(&connections, "100").unwrap();
        assert!(check(&connections, "100kB").is_err());
        let cost = setting("real", None, "0", "1.79769e+308");
        check(&cost, "0.5").unwrap();
        check(&cost, ".5e-1").unwrap();
        assert!(check(&cost, "inf").is_err());
    }

    #[test]
    fn words_are_read_as_the_server_does() {
        let switch = setting("bool", None, "", "");
        for good in ["on", "OFF", "of", "t", "ye", "1", "0", "no"] {
            check(&switch, good).unwrap();
        }
        for bad in ["o", "", "2", "onn", "maybe"] {
            assert!(check(&switch, bad).is_err(), "{bad}");
        }
        let commit = setting("enum", None, "", "");
        for good in ["Remote_Apply", "true", "off"] {
            check(&commit, good).unwrap();
        }
        assert!(check(&commit, "local").is_err());
        check(&setting("string", None, "", ""), "anything").unwrap();
    }

    proptest! {
        #[test]
        fn garbage_never_panics(given in "[-+0-9a-zA-Z.é ]{0,12}") {
            for kind in ["integer", "real", "bool", "enum"] {
                let _ = check(&setting(kind, Some("8kB"), "0", "9"), &given);
            }
        }
    }
}
