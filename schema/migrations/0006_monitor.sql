-- A gateway starts, and says that it is ready, only on the version of the database that it was made for.
GRANT SELECT ON tollgate.migration TO tollgate_monitor;
