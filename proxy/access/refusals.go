package access

import (
	"cmp"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hubcap/proxy/advice"
	"hubcap/proxy/logging"
	"hubcap/proxy/memory"
)

// Bounds of what Refusals remember.
const (
	refusedFor       = 10 * time.Minute
	clientsRefused   = 256
	registriesWanted = 64
)

// Refusals remembers clients that may not pull and registries that are not
// configured: mostly mistakes of the configuration. Its methods are safe for
// concurrent use.
type Refusals struct {
	now     func() time.Time
	log     *slog.Logger
	warned  struct{ client, registry logging.Throttle }
	clients *memory.Memory[netip.Addr, time.Time] // when each was last refused

	mu         sync.Mutex
	registries *memory.Memory[string, *wanted]
}

// wanted is a registry that is not configured. Refusals.mu is held for it.
type wanted struct {
	clients *memory.Memory[netip.Addr, struct{}]
	last    time.Time
}

// NewRefusals returns Refusals that remember nothing.
func NewRefusals(now func() time.Time, log *slog.Logger) *Refusals {
	return &Refusals{
		now: now, log: log, clients: memory.New[netip.Addr, time.Time](clientsRefused, now),
		registries: memory.New[string, *wanted](registriesWanted, now),
	}
}

// Client records a client outside the ranges that may pull. client may be
// invalid.
func (r *Refusals) Client(client netip.Addr) {
	now := r.now()
	r.clients.Put(client, now, refusedFor)
	if r.warned.client.Allow(now) {
		r.log.Warn(advice.ClientRefused(client), "client", client.String())
	}
}

// Registry records that a client has asked for a registry that is not
// configured.
func (r *Refusals) Registry(registry string, client netip.Addr) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	one, ok := r.registries.Get(registry)
	if !ok {
		one = &wanted{clients: memory.New[netip.Addr, struct{}](clientsRefused, r.now)}
	}
	one.last = now
	one.clients.Put(client, struct{}{}, refusedFor)
	r.registries.Put(registry, one, refusedFor)
	if r.warned.registry.Allow(now) {
		r.log.Warn(advice.NotConfigured(registry, one.count()), "registry", registry, "client", client.String())
	}
}

// count returns how many clients have asked for the registry lately.
func (w *wanted) count() (n int) {
	for range w.clients.All() {
		n++
	}
	return n
}

// RefusalsStatus is what was refused within the last ten minutes.
type RefusalsStatus struct {
	Clients    []RefusedClient   // the last one first, at most 256
	Registries []UnknownRegistry // those that most clients ask for first, at most 64
}

// RefusedClient is a client outside the ranges that may pull.
type RefusedClient struct {
	Client netip.Addr // invalid if the header that names it is malformed
	Last   time.Time
}

// UnknownRegistry is a registry that is not configured.
type UnknownRegistry struct {
	Registry string
	Clients  int // that have asked for it, at most 256
	Last     time.Time
}

// Status returns what was refused within the last ten minutes.
func (r *Refusals) Status() (s RefusalsStatus) {
	for client, last := range r.clients.All() {
		s.Clients = append(s.Clients, RefusedClient{client, last})
	}
	slices.Reverse(s.Clients)
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, one := range r.registries.All() {
		s.Registries = append(s.Registries, UnknownRegistry{name, one.count(), one.last})
	}
	slices.SortFunc(s.Registries, func(a, b UnknownRegistry) int {
		return cmp.Or(b.Clients-a.Clients, cmp.Compare(a.Registry, b.Registry))
	})
	return s
}
