"""Links like those between phone, edge and data centre, made on this machine: a schedule, and two carriers of it."""
