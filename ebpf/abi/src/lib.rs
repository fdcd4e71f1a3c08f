#![no_std]
//! abi
