//! `VENDOR/CLASS=NAME`.

/// A device's kind, `VENDOR/CLASS`, and its name in it.
pub(super) fn qualified(name: &str) -> Result<(&str, &str), &'static str> {
    let (kind, device) = name
        .split_once('=')
        .ok_or("write VENDOR/CLASS=NAME, as in example.com/gpu=0")?;
    self::kind(kind)?;
    self::device(device)?;
    Ok((kind, device))
}

/// `VENDOR/CLASS`, which files have for their `kind`.
pub(super) fn kind(kind: &str) -> Result<(), &'static str> {
    let (vendor, class) = kind
        .split_once('/')
        .ok_or("a kind is VENDOR/CLASS, as in example.com/gpu")?;
    for part in [vendor, class] {
        if !part.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err("vendor and class begin with a letter");
        }
        between(
            part,
            "_-.",
            "vendor and class have letters, digits, '_', '-' and '.', and end with a letter or digit",
        )?;
    }
    Ok(())
}

/// The name of a device within its kind.
pub(super) fn device(name: &str) -> Result<(), &'static str> {
    const RULE: &str = "a device's name has letters, digits, '_', '-', '.' and ':', and begins and ends with a letter or digit";
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(RULE);
    }
    between(name, "_-.:", RULE)
}

fn between(name: &str, also: &str, rule: &'static str) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || also.contains(c);
    let ends = name.ends_with(|c: char| c.is_ascii_alphanumeric());
    if ends && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(rule)
    }
}
