//! Settings from a file, the environment and flags.
//!
//! The shape of the file is checked against the defaults, so that a mistyped key is a fault, not a silently kept
//! default; all faults are reported at once. An environment variable is named after its key: `ports.name_server` is
//! `FLOTILLA_PORTS_NAME_SERVER`. Variables of other names are left alone: orchestrators invent some of their own.

use std::path::Path;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Faults;

/// Variables that start with it may be settings.
const ENVIRONMENT_PREFIX: &str = "FLOTILLA_";

/// Settings of a process.
pub trait Loadable: Default + Serialize + DeserializeOwned {
    /// All that is wrong with the values.
    fn validate(&self) -> Result<(), Faults>;
}

/// Settings given on the command line; they win over file and environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `key=value`, where the key is dotted (`ports.http`) and the value is written as in an environment variable.
    pub set: Vec<(String, String)>,
}

/// Reads the file (when given), the environment and the overrides. Nothing is returned unless all of it is valid.
pub fn load<S: Loadable>(file: Option<&Path>, overrides: &Overrides) -> Result<S, Faults> {
    let defaults = default_tree::<S>();
    let keys = keys(&defaults);
    let mut figment = Figment::from(Serialized::defaults(S::default()));
    let mut faults = Faults::of(file);
    if let Some(path) = file {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                faults.check_shape(&text, &defaults);
                figment = figment.merge(Toml::string(&text));
            }
            Err(error) => faults.push(format!("cannot be read: {error}")),
        }
    }
    let known = keys.clone();
    figment = figment.merge(Env::prefixed(ENVIRONMENT_PREFIX).filter_map(move |name| {
        let name = name.as_str().to_ascii_lowercase();
        let key = known.iter().find(|key| key.replace('.', "_") == name);
        key.cloned().map(Into::into)
    }));
    for (key, value) in &overrides.set {
        if keys.iter().any(|known| known == key) {
            // The parser of environment values, so that a flag is written like a variable.
            let value: figment::value::Value = value.parse().unwrap_or_else(|never| match never {});
            figment = figment.merge((key.as_str(), value));
        } else {
            faults.push(format!("--set {key}: no such key"));
        }
    }
    if !faults.is_empty() {
        // Types are wrong: the values cannot be read, yet what can be read is still checked for its meaning.
        if let Ok(settings) = figment.extract::<S>() {
            faults.extend(settings.validate().err());
        }
        return Err(faults);
    }
    match figment.extract::<S>() {
        Ok(settings) => {
            faults.extend(settings.validate().err());
            if faults.is_empty() { Ok(settings) } else { Err(faults) }
        }
        Err(errors) => {
            for error in errors {
                faults.push(error.to_string());
            }
            Err(faults)
        }
    }
}

/// The settings as a file that would give them.
pub fn to_toml(settings: &impl Serialize) -> String {
    toml::to_string_pretty(settings).expect("settings are tables of plain values")
}

/// The default settings as a TOML tree: which keys exist and of what type they are.
fn default_tree<S: Loadable>() -> toml::Value {
    toml::Value::try_from(S::default()).expect("settings are tables of plain values")
}

/// Every key, dotted.
fn keys(defaults: &toml::Value) -> Vec<String> {
    fn walk(prefix: &str, value: &toml::Value, keys: &mut Vec<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let key = if prefix.is_empty() {
                        key.clone()
                    } else {
                        format!("{prefix}.{key}")
                    };
                    walk(&key, value, keys);
                }
            }
            _ => keys.push(prefix.to_owned()),
        }
    }
    let mut found = Vec::new();
    walk("", defaults, &mut found);
    found
}
