//! The derive macros' tests stand in `it/`, what must not compile in `fail/`.
