package setup

import (
	"net/netip"
	"time"
)

// Pulls knows when clients pulled.
type Pulls interface {
	// LastPull returns when a client last pulled; ok is false if it is not
	// known to have pulled.
	LastPull(client netip.Addr) (at time.Time, ok bool)
}
