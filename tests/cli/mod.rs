//! The command line, its client and the settings.

mod client;
mod commands;
mod config;
mod contexts;
mod doctor;
mod program;
mod server;
mod words;
