//! Are the decisions right, and the same natively and through the component?
//!
//! One corpus of rows by hand ([`corpus`]), cases by the thousand
//! ([`generated`]), the cases that the component carries itself ([`cases`]), the
//! catalogue against its own text ([`listing`]), another API's catalogue
//! ([`parcels`]), an overlay ([`read_only`]), and the largest key there can be
//! ([`largest`]).
//!
//! The life of keys: making them ([`creation`]), what becomes of them
//! ([`changing`], [`rotation`]), what is shown of them ([`showing`]), and cases
//! by the thousand ([`lives`]).
//!
//! Every question is asked in [`both`] ways.

mod both;
mod cases;
mod changing;
#[path = "../common/mod.rs"]
mod common;
mod corpus;
mod creation;
mod generated;
mod largest;
mod listing;
mod lives;
mod parcels;
mod random;
mod read_only;
mod rotation;
mod rows;
mod showing;
