//! Are the decisions right, and the same natively and through the component?
//!
//! One corpus of rows by hand ([`corpus`]), cases by the thousand
//! ([`generated`]), the catalogue against its own text ([`listing`]), another
//! API's catalogue ([`parcels`]), making keys ([`creation`]), and the largest
//! key there can be ([`largest`]). Every question is asked in [`both`] ways.

mod both;
#[path = "../common/mod.rs"]
mod common;
mod corpus;
mod creation;
mod generated;
mod largest;
mod listing;
mod parcels;
mod rows;
