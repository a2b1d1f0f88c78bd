package admin

import (
	"context"
	"math"
	"time"

	"hubcap/cache"
	"hubcap/eviction"
	"hubcap/eviction/advisor"
	"hubcap/metrics/history"
	"hubcap/proxy/admin/api"
	"hubcap/proxy/bypass"
	"hubcap/proxy/freshness"
	"hubcap/proxy/jobs"
	"hubcap/proxy/pins"
	"hubcap/proxy/problems"
	"hubcap/proxy/purge"
	"hubcap/proxy/requests"
	"hubcap/proxy/upstream"
	"hubcap/proxy/warm"
)

// Box is what the API has to tell of and to do: the rooms behind it. Its methods
// are what the routes answer, for the API and for the page. Every field is
// required.
type Box struct {
	Name    string // of the machine
	Version string
	Since   time.Time // start of the process
	Offline func() bool
	Now     func() time.Time
	Events  *Events

	Cache     *cache.Cache
	Ledger    *eviction.Ledger
	Upstreams *upstream.Set
	Clients   *bypass.Monitor
	Requests  *requests.Log
	Tags      *freshness.Resolver
	Warm      *warm.Warmer
	Pins      *pins.Pins
	Purge     *purge.Purger
	Jobs      *jobs.List
	Problems  *problems.List
	History   *history.History
}

// GetStatus returns how the box is.
func (b *Box) GetStatus(context.Context, *struct{}) (*api.Status, error) {
	fills, disk := b.Cache.Status(), b.Ledger.Status()
	objects, _ := disk.Held()
	s := &api.Status{
		Box: b.Name, Version: b.Version, Since: b.Since, State: api.StateOK, Offline: b.Offline(), Problems: b.Problems.All(),
		Today: b.today(), Limits: []api.Limit{}, Clients: b.clientCounts(),
		Disk:  api.Disk{Used: disk.Used(), Budget: disk.Budget, Pinned: disk.Pinned.Bytes, Objects: objects, Filesystem: fills.FileSystem.Size, Free: fills.FileSystem.Free},
		Fills: api.FillCounts{Running: fills.FillsRunning, Waiting: fills.FillsWaiting},
	}
	if len(s.Problems) > 0 {
		s.State = api.StateDegraded
		if s.Problems[0].Severity == problems.Critical {
			s.State = api.StateCritical
		}
	}
	for _, u := range b.Upstreams.Status() {
		for _, one := range u.Identities {
			if l := b.limit(u.Host, one); l != nil {
				s.Limits = append(s.Limits, *l)
			}
		}
	}
	return s, nil
}

// today returns the present day's point of the history.
func (b *Box) today() api.Today {
	b.History.Sample()
	points := b.History.Points(history.Day, b.Now().UTC().Truncate(history.Day.Length))
	if len(points) == 0 {
		return api.Today{}
	}
	v := points[len(points)-1].Values
	t := api.Today{
		Requests: int64(v["requests"]), BytesOut: int64(v["client_bytes"]), BytesIn: int64(v["upstream_bytes"]),
		Joined: int64(v["joined"]), Stale: int64(v["stale"]),
	}
	t.BytesSaved = max(t.BytesOut-t.BytesIn, 0)
	if t.Requests > 0 {
		t.HitRatio = v["cached"] / v["requests"]
	}
	return t
}

func (b *Box) clientCounts() api.ClientCounts {
	const day = 24 * time.Hour
	c := api.ClientCounts{Hour: b.Clients.Distinct(time.Hour), Day: b.Clients.Distinct(day), Week: b.Clients.Distinct(7 * day), LeftDay: make(map[string]int)}
	since := b.Now().Add(-day)
	for _, one := range b.Clients.Clients() {
		if one.LastLeft.After(since) {
			c.LeftDay[one.Family.String()]++
		}
	}
	return c
}

// GetProblems returns what is wrong now.
func (b *Box) GetProblems(context.Context, *struct{}) (*api.Problems, error) {
	return &api.Problems{Problems: b.Problems.All()}, nil
}

// GetFills returns the running downloads.
func (b *Box) GetFills(context.Context, *struct{}) (*api.Fills, error) {
	fills := []api.Fill{}
	for _, f := range b.Cache.Fills() {
		fills = append(fills, fillOf(f))
	}
	return &api.Fills{Fills: fills}, nil
}

func fillOf(f cache.FillStatus) api.Fill {
	one := api.Fill{
		Digest: f.Digest.String(), Upstream: f.Host, Repository: f.Repository, State: f.State,
		Size: max(f.Size, -1), Have: f.Present, Rate: f.Rate, Readers: f.Readers, Writers: f.Writers, Since: f.Since,
	}
	if f.Rate > 0 && f.Size >= f.Present {
		left := int64(math.Ceil(float64(f.Size-f.Present) / float64(f.Rate)))
		one.LeftS = &left
	}
	return one
}

// GetUpstreams returns the registries that are asked.
func (b *Box) GetUpstreams(context.Context, *struct{}) (*api.Upstreams, error) {
	all := []api.Upstream{}
	for _, u := range b.Upstreams.Status() {
		one := api.Upstream{Host: u.Host, Configured: u.Configured, URL: u.URL, Offline: u.Offline, Identities: []api.Identity{}, Hosts: []api.Host{}}
		for _, i := range u.Identities {
			one.Identities = append(one.Identities, api.Identity{
				Identity: i.Identity, Repositories: i.Repositories, Limit: b.limit(u.Host, i), Credentials: credentialsOf(i),
			})
		}
		for _, h := range u.Hosts {
			one.Hosts = append(one.Hosts, b.host(h))
		}
		all = append(all, one)
	}
	return &api.Upstreams{Upstreams: all}, nil
}

// limit returns the pull limit of an identity; nil if none was stated.
func (b *Box) limit(host string, i upstream.IdentityStatus) *api.Limit {
	l := i.Limit
	if l.Stated.IsZero() {
		return nil
	}
	one := &api.Limit{
		Upstream: host, Identity: i.Identity, Limit: max(l.Limit, -1), Remaining: max(l.Remaining, -1), WindowS: seconds(l.Window),
		Source: l.Source, Stated: l.Stated, ForeignPulls: l.Foreign,
	}
	if l.Exhausted >= 0 {
		lasts := max(seconds(l.Stated.Add(l.Exhausted).Sub(b.Now())), 0)
		one.LastsS = &lasts
	}
	return one
}

func credentialsOf(i upstream.IdentityStatus) *api.Credentials {
	c := i.Credentials
	if c == nil {
		return nil
	}
	return &api.Credentials{
		Kind: string(c.Kind), Usable: c.Usable, Refused: c.Refused, Failure: c.Failure, Accepted: known(c.Accepted), Ends: known(c.Ends),
	}
}

func (b *Box) host(h upstream.HostStatus) api.Host {
	one := api.Host{
		Host: h.Host, Role: h.Role, Circuit: h.Circuit, Since: known(h.Since),
		Failure: h.Failure, LastFailure: known(h.LastFailure), Addresses: []string{},
	}
	if h.LimitedUntil.After(b.Now()) {
		one.LimitedUntil = &h.LimitedUntil
	}
	for _, a := range h.Addresses {
		one.Addresses = append(one.Addresses, a.String())
	}
	return one
}

// GetCapacity returns what a cache of another size would answer.
func (b *Box) GetCapacity(context.Context, *struct{}) (*api.Capacity, error) {
	estimates, ok := b.Cache.Capacity()
	c := &api.Capacity{Known: ok, Budget: b.Ledger.Status().Budget, Scales: []api.Scale{}}
	if !ok {
		return c, nil
	}
	for i, e := range estimates {
		scale := advisor.Scales[i]
		c.Scales = append(c.Scales, api.Scale{Scale: scale, Size: int64(scale * float64(c.Budget)), Requests: e.Requests, Bytes: e.Bytes})
	}
	return c, nil
}

// GetHistory returns points of the box's own series.
func (b *Box) GetHistory(_ context.Context, q *api.HistoryQuery) (*api.History, error) {
	step := history.Fine
	if q.Step == "1d" {
		step = history.Day
	}
	points := b.History.Points(step, q.Since)
	if points == nil {
		points = []api.Point{}
	}
	return &api.History{StepS: seconds(step.Length), Points: points}, nil
}

// seconds returns a duration in whole seconds.
func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// known returns nil for the zero time.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
