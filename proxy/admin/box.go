package admin

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"hubcap/cache"
	"hubcap/eviction"
	"hubcap/eviction/advisor"
	"hubcap/metrics/history"
	"hubcap/proxy/admin/api"
	"hubcap/proxy/bundle"
	"hubcap/proxy/bypass"
	"hubcap/proxy/evict"
	"hubcap/proxy/freshness"
	"hubcap/proxy/images"
	"hubcap/proxy/jobs"
	"hubcap/proxy/outage"
	"hubcap/proxy/pins"
	"hubcap/proxy/problems"
	"hubcap/proxy/purge"
	"hubcap/proxy/requests"
	"hubcap/proxy/site"
	"hubcap/proxy/tier"
	"hubcap/proxy/upstream"
	"hubcap/proxy/warm"
)

// Box is what the API has to tell of and to do: the rooms behind it. Its methods
// are what the routes answer. Every field but Site and Tier is required.
type Box struct {
	Name    string // of the machine
	Boxes   []api.OtherBox
	Version string
	Since   time.Time // start of the process
	Offline func() bool
	Site    *site.Site // nil for a box that knows no other
	Now     func() time.Time
	Events  *Events

	Cache     *cache.Cache
	Ledger    *eviction.Ledger
	Upstreams *upstream.Set
	Clients   *bypass.Monitor
	Requests  *requests.Log
	Images    *images.Images
	Tags      *freshness.Resolver
	Warm      *warm.Warmer
	Pins      *pins.Pins
	Purge     *purge.Purger
	Bundle    *bundle.Bundler
	Evict     *evict.Evictor
	Jobs      *jobs.List
	Problems  *problems.List
	Outage    *outage.Readiness
	Switch    *outage.Offline
	History   *history.History
	Tier      *tier.Tier // nil for none
}

// status returns how the box is.
func (b *Box) status() api.Status {
	fills, disk := b.Cache.Status(), b.Ledger.Status()
	objects, _ := disk.Held()
	s := api.Status{
		Box: b.Name, Version: b.Version, Since: b.Since, State: api.StateOK, Offline: b.Offline(), Problems: b.Problems.All(), Boxes: b.Boxes, Site: b.Site.Status(),
		Today: b.today(), Limits: b.limits(), Clients: b.clientCounts(), Outage: b.Outage.Status().Summary,
		Disk:  api.Disk{Used: disk.Used(), Budget: disk.Budget, Pinned: disk.Pinned.Bytes, Guests: disk.Guests.Bytes, Objects: objects, Filesystem: fills.FileSystem.Size, Free: fills.FileSystem.Free},
		Fills: api.FillCounts{Running: fills.FillsRunning, Waiting: fills.FillsWaiting},
	}
	if disk.Evictions.Objects > 0 {
		unused := seconds(disk.Evictions.Unused)
		s.Disk.LastUnusedS = &unused
	}
	if len(s.Problems) > 0 {
		s.State = api.StateDegraded
		if s.Problems[0].Severity == problems.Critical {
			s.State = api.StateCritical
		}
	}
	if b.Tier != nil {
		status := b.Tier.Status()
		s.Tier = &status
	}
	return s
}

// today returns the present day's point of the history.
func (b *Box) today() api.Today {
	b.History.Sample()
	points := b.History.Points(history.Day, b.Now().UTC().Truncate(history.Day.Length))
	if len(points) == 0 {
		return api.Today{}
	}
	v := points[len(points)-1].Values
	derive(v)
	return api.Today{
		Requests: int64(v["requests"]), BytesOut: int64(v["client_bytes"]), BytesIn: int64(v["upstream_bytes"]), BytesSaved: int64(v["saved_bytes"]),
		Joined: int64(v["joined"]), Stale: int64(v["stale"]), HitRatio: v["hit_ratio"],
	}
}

// derive adds to a point what follows from its counters. Without requests there is
// no hit ratio.
func derive(v map[string]float64) {
	if _, counted := v["client_bytes"]; counted {
		v["saved_bytes"] = max(v["client_bytes"]-v["upstream_bytes"], 0)
	}
	if v["requests"] > 0 {
		v["hit_ratio"] = v["cached"] / v["requests"]
	}
}

func (b *Box) clientCounts() api.ClientCounts {
	const day = 24 * time.Hour
	c := api.ClientCounts{Hour: b.Clients.Distinct(time.Hour), Day: b.Clients.Distinct(day), Week: b.Clients.Distinct(7 * day), LeftDay: make(map[string]int)}
	since := b.Now().Add(-day)
	for _, one := range b.Clients.Clients() {
		if one.LastLeft.After(since) {
			c.LeftDay[one.Family]++
		}
	}
	return c
}

// upstreams returns the registries that are asked.
func (b *Box) upstreams() api.Upstreams {
	all := []api.Upstream{}
	for _, u := range b.Upstreams.Status() {
		one := api.Upstream{Host: u.Host, Configured: u.Configured, URL: u.URL, Offline: u.Offline, Identities: []api.Identity{}, Hosts: u.Hosts}
		for _, i := range u.Identities {
			one.Identities = append(one.Identities, api.Identity{Identity: i.Identity, Repositories: i.Repositories, Limit: b.limit(u.Host, i), Credentials: i.Credentials})
		}
		all = append(all, one)
	}
	return api.Upstreams{Upstreams: all}
}

// limits returns the pull limits that registries have stated.
func (b *Box) limits() []api.Limit {
	all := []api.Limit{}
	for _, u := range b.upstreams().Upstreams {
		for _, i := range u.Identities {
			if i.Limit != nil {
				all = append(all, *i.Limit)
			}
		}
	}
	return all
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

// capacity returns what a cache of another size would answer.
func (b *Box) capacity() api.Capacity {
	advice, ok := b.Cache.Capacity()
	c := api.Capacity{Known: ok, Budget: b.Ledger.Status().Budget, Scales: []api.Scale{}}
	if !ok {
		return c
	}
	for i, e := range advice.Scales {
		one := api.Scale{Scale: advisor.Scales[i], Size: int64(advisor.Scales[i] * float64(c.Budget)), Requests: e.Requests, Bytes: e.Bytes}
		if len(advice.Week) > 0 {
			one.Week = &advice.Week[i]
		}
		c.Scales = append(c.Scales, one)
	}
	return c
}

// series returns points of the box's own series.
func (b *Box) series(_ context.Context, q *api.HistoryQuery) (api.History, error) {
	step := history.Fine
	if q.Step == "1d" {
		step = history.Day
	}
	h := api.History{StepS: seconds(step.Length), Points: b.History.Points(step, q.Since)}
	for _, p := range h.Points {
		derive(p.Values)
	}
	return h, nil
}

// seconds returns a duration in whole seconds.
func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// clients returns a page of those who have asked for content.
func (b *Box) clients(_ context.Context, q *api.Page) (c api.Clients, _ error) {
	all := b.Clients.Clients()
	c.Clients = all[min(q.After, len(all)):]
	if len(c.Clients) > q.Limit {
		c.Clients, c.Next = c.Clients[:q.Limit], q.After+q.Limit
	}
	return c, nil
}

// lastRequests returns some of the last requests of clients.
func (b *Box) lastRequests(_ context.Context, q *api.RequestsQuery) (api.Requests, error) {
	f := requests.Filter{Result: q.Result, Image: q.Image}
	if q.Client != "" {
		var err error
		if f.Client, err = network(q.Client); err != nil {
			return api.Requests{}, &api.Error{
				Status: http.StatusUnprocessableEntity, Detail: "client is neither an address nor a network",
				Errors: []api.FieldErrors{{Location: "query.client", Message: "want an address or a network such as 10.1.0.0/16"}},
			}
		}
	}
	return api.Requests{Requests: b.Requests.After(q.After, q.Limit, f)}, nil
}

func network(text string) (netip.Prefix, error) {
	if at, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(at, at.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

// bypasses returns who has gone around the box.
func (b *Box) bypasses() api.Bypasses {
	found := api.Bypasses{Suspicions: b.Clients.Suspicions(), Foreign: []api.Foreign{}}
	for _, l := range b.limits() {
		if l.ForeignPulls > 0 {
			found.Foreign = append(found.Foreign, api.Foreign{Upstream: l.Upstream, Identity: l.Identity, Pulls: l.ForeignPulls})
		}
	}
	return found
}
