//! Small values of flags: `K=V`, ports, amounts.

/// Splits `KEY=VALUE`; the value may be empty.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// `KEY=VALUE`, or `KEY` for the value that it has in our own environment.
pub fn env(text: &str) -> Result<(String, String), String> {
    if text.contains('=') {
        return key_value(text);
    }
    match std::env::var(text) {
        Ok(value) => Ok((text.to_owned(), value)),
        Err(_) => Err("expected KEY=VALUE, or a KEY that is set in your environment".to_owned()),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: Option<String>,
    pub port: u16,
    pub default: bool,
}

/// `[NAME:]PORT[:default]`.
pub fn port(text: &str) -> Result<Port, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (name, number, default) = match parts[..] {
        [number] => (None, number, false),
        [number, "default"] => (None, number, true),
        [name, number] => (Some(name), number, false),
        [name, number, "default"] => (Some(name), number, true),
        _ => return Err("expected [NAME:]PORT[:default]".to_owned()),
    };
    let port = number
        .parse::<u16>()
        .ok()
        .filter(|p| *p > 0)
        .ok_or_else(|| format!("port was {number:?}; allowed: 1 to 65535"))?;
    if name.is_some_and(str::is_empty) {
        return Err("the name is empty; expected [NAME:]PORT[:default]".to_owned());
    }
    Ok(Port { name: name.map(str::to_owned), port, default })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub path: String,
    pub read_only: bool,
}

/// `NAME:PATH[:ro]`. Names have no colon; what follows the path is read from its end.
pub fn volume(text: &str) -> Result<Volume, String> {
    let bad = || format!("was {text:?}; expected NAME:PATH, or NAME:PATH:ro, with an absolute PATH");
    let (name, rest) = text.split_once(':').ok_or_else(bad)?;
    let (path, read_only) = match rest.rsplit_once(':') {
        Some((path, "ro")) => (path, true),
        Some((path, "rw")) => (path, false),
        Some(_) => return Err(bad()),
        None => (rest, false),
    };
    if name.is_empty() || !path.starts_with('/') {
        return Err(bad());
    }
    Ok(Volume { name: name.to_owned(), path: path.to_owned(), read_only })
}

/// Thousandths of a core: `2` and `0.5` are cores, `1500m` and whole numbers from 100 on are thousandths.
pub fn cpu(text: &str) -> Result<u64, String> {
    let bad = || format!("was {text:?}; allowed: cores such as 2 or 0.5, or thousandths such as 1500m");
    let millicores = if let Some(m) = text.strip_suffix('m') {
        m.parse::<u64>().map_err(|_| bad())?
    } else {
        match text.parse::<u64>() {
            Ok(n) if n >= 100 => n,
            Ok(n) => n * 1000,
            Err(_) => decimal_millicores(text).ok_or_else(bad)?,
        }
    };
    if millicores == 0 { Err(bad()) } else { Ok(millicores) }
}

fn decimal_millicores(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.')?;
    if fraction.is_empty() || fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: u64 = format!("{fraction:0<3}").parse().ok()?;
    whole.checked_mul(1000)?.checked_add(fraction)
}

/// MiB: a plain number, or with M, G or T (also `Mi`, `MiB`, `MB`: all are powers of 1024).
pub fn mebibytes(text: &str) -> Result<u64, String> {
    let bad =
        || format!("was {text:?}; allowed: MiB as a whole number, or with M, G or T, such as 512M or 4G");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_end_matches(['B', 'b']).trim_end_matches('i') {
        "" if unit.is_empty() => 1,
        "M" | "m" => 1,
        "G" | "g" => 1 << 10,
        "T" | "t" => 1 << 20,
        _ => return Err(bad()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| *n > 0).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports() {
        let p = |name: Option<&str>, port, default| Port { name: name.map(str::to_owned), port, default };
        assert_eq!(port("8080"), Ok(p(None, 8080, false)));
        assert_eq!(port("8080:default"), Ok(p(None, 8080, true)));
        assert_eq!(port("web:8080"), Ok(p(Some("web"), 8080, false)));
        assert_eq!(port("web:8080:default"), Ok(p(Some("web"), 8080, true)));
        for bad in ["", "0", "65536", "web", ":80", "web:80:other", "a:1:default:x", "-1"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn env_pairs() {
        assert_eq!(key_value("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(key_value("A="), Ok(("A".into(), String::new())));
        assert!(key_value("=b").is_err() && key_value("A").is_err());
        assert_eq!(env("PATH").unwrap().1, std::env::var("PATH").unwrap());
        assert!(env("SURELY_NOT_SET_ANYWHERE").is_err());
    }

    #[test]
    fn cpus() {
        assert_eq!(cpu("2"), Ok(2000));
        assert_eq!(cpu("0.5"), Ok(500));
        assert_eq!(cpu(".25"), Ok(250));
        assert_eq!(cpu("1500m"), Ok(1500));
        assert_eq!(cpu("1500"), Ok(1500));
        for bad in ["0", "0.0", "-1", "1.", "1.2345", "two", "m", "1e3", "NaN"] {
            assert!(cpu(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(mebibytes("512"), Ok(512));
        assert_eq!(mebibytes("512M"), Ok(512));
        assert_eq!(mebibytes("2G"), Ok(2048));
        assert_eq!(mebibytes("2GiB"), Ok(2048));
        assert_eq!(mebibytes("1Ti"), Ok(1 << 20));
        for bad in ["0", "", "G", "1K", "1.5G", "512X", "99999999999999999999", "512B", "5i"] {
            assert!(mebibytes(bad).is_err(), "{bad}");
        }
    }
}
