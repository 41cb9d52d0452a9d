//! Durations as people write them: `30m`, `12h`, `7d`.

use std::{fmt, str::FromStr};

const HOUR: u32 = 60;
const DAY: u32 = 24 * HOUR;

/// A number of minutes. Written with the greatest unit that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Minutes(pub(super) u32);

/// A text that is no duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("write minutes, hours or days: `30m`, `12h`, `7d`; or `0`")]
pub(super) struct DurationInvalid;

impl FromStr for Minutes {
    type Err = DurationInvalid;

    fn from_str(text: &str) -> Result<Self, DurationInvalid> {
        // A bare number could be minutes as well as days; nothing is nothing.
        if text == "0" {
            return Ok(Self(0));
        }
        let unit = match text.as_bytes().last() {
            Some(b'm') => 1,
            Some(b'h') => HOUR,
            Some(b'd') => DAY,
            _ => return Err(DurationInvalid),
        };
        let number = &text[..text.len() - 1];
        // Parsing numbers takes a sign.
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(DurationInvalid);
        }
        let number: u32 = number.parse().map_err(|_| DurationInvalid)?;
        number.checked_mul(unit).map(Self).ok_or(DurationInvalid)
    }
}

impl fmt::Display for Minutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            minutes if minutes % DAY == 0 => write!(f, "{}d", minutes / DAY),
            minutes if minutes % HOUR == 0 => write!(f, "{}h", minutes / HOUR),
            minutes => write!(f, "{minutes}m"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_and_written() {
        for (text, minutes, written) in [
            ("0", 0, "0"),
            ("0m", 0, "0"),
            ("30m", 30, "30m"),
            ("90m", 90, "90m"),
            ("120m", 120, "2h"),
            ("12h", 720, "12h"),
            ("24h", 1440, "1d"),
            ("7d", 10_080, "7d"),
        ] {
            assert_eq!(text.parse(), Ok(Minutes(minutes)), "{text}");
            assert_eq!(Minutes(minutes).to_string(), written, "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "m",
            "1",
            "60",
            "-1m",
            "+1m",
            "1 m",
            "1M",
            "1w",
            "1.5h",
            "1h30m",
            "d1",
            "1é",
            "4294967296m",
            "99999999999999999999d",
            "4294967295h",
        ] {
            assert_eq!(text.parse::<Minutes>(), Err(DurationInvalid), "{text}");
        }
    }
}
