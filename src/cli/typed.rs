//! Values of flags as people type them; what is no such value is answered with what would be one.

/// Booleans as Python's and shell's people type them.
pub fn boolean(typed: &str) -> Result<bool, String> {
    match typed.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "0" => Ok(false),
        _ => Err("give true or false".to_owned()),
    }
}

pub fn warmup_steps(typed: &str) -> Result<f64, String> {
    match typed.parse::<f64>() {
        Ok(steps) if steps.is_finite() && steps >= 0.0 && (steps < 1.0 || steps.fract() == 0.0) => Ok(steps),
        _ => Err("give a whole number from 0, or a fraction below 1; invalid digit or out of range".to_owned()),
    }
}

pub fn max_steps(typed: &str) -> Result<i64, String> {
    match typed.parse() {
        Ok(steps) if steps == -1 || steps > 0 => Ok(steps),
        _ => Err("give a whole number from 1, or -1 for as many as the epochs take".to_owned()),
    }
}
