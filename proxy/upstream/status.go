package upstream

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"hubcap/metrics"
	"hubcap/proxy/upstream/credentials"
)

// The identities under which a registry is asked.
const (
	identityAnonymous   = "anonymous"
	identityCredentials = "credentials" // the box's
	identityClient      = "client"      // a client's own token
)

// Status is the state of one upstream at one moment.
type Status struct {
	Host       string           // its name; behind a pattern that of the host itself
	Configured string           // the configured host or pattern
	URL        string           // where it is
	Offline    bool             // no requests are sent
	Identities []IdentityStatus // anonymous first
	Hosts      []HostStatus     // that have been asked lately, by name
	TokenHost  RefusedTokenHost // the last one; zero for none
}

// RefusedTokenHost is a token service that a registry named and that is not on
// its list.
type RefusedTokenHost struct {
	Host string // as the registry wrote it
	At   time.Time
}

// IdentityStatus is the state of one identity under which an upstream is asked.
type IdentityStatus struct {
	Identity     string              // anonymous, credentials (the box's) or client (a client's own token)
	Repositories []string            // globs of the repositories that it is for; nil for all others
	Limit        LimitStatus         // for client: as last stated to one of them, without Source
	Credentials  *credentials.Status // nil without
}

// LimitStatus is a pull limit, as the registry's answers last stated it.
type LimitStatus struct {
	Limit     int           // pulls per window; negative when not stated
	Remaining int           // pulls left; negative when not stated
	Window    time.Duration // 0 when not stated
	Source    string        // the address or account whose pulls are counted: the registry's own text, printable ASCII
	Stated    time.Time     // when an answer last stated any of it; zero for never
	Exhausted time.Duration // from Stated until no pull is left, at the rate of the last hour; negative when they do not decrease
	Foreign   int64         // pulls since the start that the box did not make; at least
	Until     time.Time     // no manifest is fetched before, unless an answer states that there are pulls again; zero or past while there are
}

// HostStatus is the state of a host behind an upstream.
type HostStatus struct {
	Host         string       `json:"host" doc:"With its port"`
	Role         string       `json:"role" doc:"registry, token (service) or redirect (target, such as a CDN)"`
	Circuit      string       `json:"circuit" enum:"closed,half_open,open" doc:"open: it fails and is not asked for a while"`
	Since        time.Time    `json:"since,omitzero" doc:"Of the circuit's state"` // zero when it never changed
	LastFailure  time.Time    `json:"last_failure,omitzero"`                       // zero for none
	Failure      string       `json:"failure,omitempty" doc:"Of the last request that failed: no connection, failed (5xx or no answer) or no blob (broken off)"`
	LimitedUntil time.Time    `json:"limited_until,omitzero" doc:"A 429 keeps requests from it until then"` // zero for none
	Addresses    []netip.Addr `json:"addresses" doc:"At which it was last connected"`                       // by any identity; empty behind an outgoing proxy
}

// Status returns the state of each upstream, sorted by host. Those of a pattern
// are in it once they have been asked for.
func (s *Set) Status() []Status {
	var all []Status
	for _, u := range s.byHost {
		all = append(all, u.Status())
	}
	for _, u := range s.lazy.All() {
		all = append(all, u.Status())
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Host, b.Host) })
	return all
}

// Status returns the state of the upstream.
func (u *Upstream) Status() Status {
	s := u.Anonymous.Status()
	s.Host = u.Host
	for _, p := range slices.Concat([]part{{nil, u.Own}}, u.parts, []part{{nil, u.Relay}}) {
		if p.own != nil {
			one := p.own.identityStatus()
			one.Repositories = p.repositories
			s.Identities = append(s.Identities, one)
			p.own.addAddresses(s.Hosts)
			if other := p.own.guard.refused.Load(); other != nil && other.At.After(s.TokenHost.At) {
				s.TokenHost = *other
			}
		}
	}
	return s
}

// Status returns the state of the client's upstream and of its own identity.
// It waits for no I/O.
func (c *Client) Status() Status {
	s := Status{
		Host: c.o.Label, Configured: c.o.Label, URL: c.o.URL.Redacted(), Offline: c.o.Offline.On(),
		Identities: []IdentityStatus{c.identityStatus()}, Hosts: c.o.hosts.status(),
	}
	c.addAddresses(s.Hosts)
	if refused := c.guard.refused.Load(); refused != nil {
		s.TokenHost = *refused
	}
	return s
}

func (c *Client) identityStatus() IdentityStatus {
	s := IdentityStatus{Identity: c.identity, Limit: c.budget.status()}
	if c.identity == identityClient {
		s.Limit.Source = "" // the account of one of hubcap's clients
	}
	if c.login != nil {
		held := c.login.keeper.Status()
		held.Kind = c.login.Kind
		s.Credentials = &held
	}
	return s
}

// addAddresses adds where the client last connected to the hosts.
func (c *Client) addAddresses(hosts []HostStatus) {
	for i := range hosts {
		if at, ok := c.network.Address(hosts[i].Host); ok && !slices.Contains(hosts[i].Addresses, at) {
			hosts[i].Addresses = append(hosts[i].Addresses, at)
		}
	}
}

// statesOf returns the metrics of states. Their labels are the configured host
// or pattern and names of hubcap's own; nothing that a registry has sent.
func statesOf(all []Status) (m metrics.UpstreamStates) {
	for _, s := range all {
		for _, one := range s.Identities {
			l := one.Limit
			m.Limits = append(m.Limits, metrics.PullLimit{
				Upstream: s.Configured, Identity: one.Identity,
				Limit: l.Limit, Remaining: l.Remaining, Window: l.Window, Exhausted: l.Exhausted, Stated: l.Stated,
			})
		}
		for _, h := range s.Hosts {
			if h.Circuit != closed.String() {
				m.Circuits = append(m.Circuits, metrics.Circuit{Upstream: s.Configured, Role: h.Role, State: h.Circuit})
			}
		}
	}
	return m
}
