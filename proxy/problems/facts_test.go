package problems

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"hubcap/cache"
	"hubcap/cache/blobs"
	"hubcap/eviction"
	"hubcap/metrics"
	"hubcap/proxy/access"
	"hubcap/proxy/bypass"
	"hubcap/proxy/freshness"
	"hubcap/proxy/images"
	"hubcap/proxy/outage"
	"hubcap/proxy/pins"
	"hubcap/proxy/port"
	"hubcap/proxy/site"
	"hubcap/proxy/tier"
	"hubcap/proxy/upstream"
	"hubcap/proxy/upstream/credentials"
)

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// well are the facts of a box with nothing wrong.
func well() Facts {
	return Facts{
		Now: now, Started: now.Add(-time.Hour), VerifyInterval: 7 * 24 * time.Hour, MinFree: 2 << 30,
		Ledger: eviction.Status{Budget: 100 << 30, Overhead: 60 << 30}, Space: blobs.Space{Total: 200 << 30, Free: 50 << 30},
		Upstreams: []upstream.Status{{Host: "docker.io", Configured: "docker.io", Identities: []upstream.IdentityStatus{
			{Identity: "anonymous", Limit: limit(90, -1)},
		}, Hosts: []upstream.HostStatus{{Host: "registry-1.docker.io:443", Role: "registry", Circuit: "closed"}}}},
		Ports: []port.Status{{Name: "mirror", Certificate: &port.CertificateStatus{File: "cert.pem", Expires: now.Add(60 * 24 * time.Hour)}}, {Name: "admin"}},
	}
}

func limit(left int, exhausted time.Duration) upstream.LimitStatus {
	return upstream.LimitStatus{Limit: 100, Remaining: left, Window: 6 * time.Hour, Stated: now.Add(-time.Minute), Exhausted: exhausted}
}

func degraded(p cache.Problem) func(*Facts) {
	return func(f *Facts) { f.Cache.Degraded = []cache.Degradation{{Problem: p, Since: now.Add(-time.Hour)}} }
}

func met(limit metrics.ConnectionLimit) func(*Facts) {
	return func(f *Facts) {
		f.Limits.Met = map[metrics.ConnectionLimit]time.Time{limit: now.Add(-30 * time.Second)}
	}
}

func pulls(l upstream.LimitStatus) func(*Facts) {
	return func(f *Facts) { f.Upstreams[0].Identities[0].Limit = l }
}

func login(c credentials.Status) func(*Facts) {
	return func(f *Facts) {
		f.Upstreams[0].Identities = append(f.Upstreams[0].Identities, upstream.IdentityStatus{Identity: "credentials", Credentials: &c, Limit: upstream.LimitStatus{Limit: -1, Remaining: -1}})
	}
}

func certificate(left time.Duration, failure string) func(*Facts) {
	return func(f *Facts) {
		f.Ports[0].Certificate = &port.CertificateStatus{File: "cert.pem", Expires: now.Add(left), Failure: failure}
	}
}

var client = netip.MustParseAddr("10.1.2.9")

// wrong are changes of the facts, by the id of the problem that they show, with
// a part of its text.
var wrong = []struct {
	id, what string
	change   func(*Facts)
}{
	{"file-system-read-only", "takes no writes", degraded(cache.ProblemReadOnly)},
	{"file-system-full", "50.0 GiB are free", degraded(cache.ProblemSpace)},
	{"file-system-without-inodes", "no more files", degraded(cache.ProblemInodes)},
	{"disk-writes-fail", "a write", degraded(cache.ProblemWrites)},
	{"disk-reads-fail", "3 cached files", func(f *Facts) { degraded(cache.ProblemReads)(f); f.Cache.Unreadable = 3 }},
	{"index-in-memory", "in memory", degraded(cache.ProblemIndex)},
	{"cache-cannot-grow", "100.0 GiB, and the file system has room for 78.0 GiB", func(f *Facts) { f.Space.Free = 20 << 30 }},
	{"scrub-late", "for 15 d, and 7 objects", func(f *Facts) {
		f.Started, f.Cache.Scrub.Due = now.Add(-15*24*time.Hour), 7
	}},
	{"upstream-fails/docker.io", "its token service auth.docker.io:443 fails (no connection)", func(f *Facts) {
		f.Upstreams[0].Hosts = append(f.Upstreams[0].Hosts, upstream.HostStatus{Host: "auth.docker.io:443", Role: "token", Circuit: "half_open", Failure: "no connection"})
	}},
	{"upstream-too-many-requests/docker.io", "for 5 min", func(f *Facts) { f.Upstreams[0].Hosts[0].LimitedUntil = now.Add(5 * time.Minute) }},
	{"registry-refuses-all/docker.io", "all of docker.io refuses: a, b", func(f *Facts) {
		f.Tags.Refusing = []freshness.RefusingRegistry{{Registry: "docker.io", Repositories: []string{"a", "b"}}}
	}},
	{"tags-stale/docker.io", "12 answers", func(f *Facts) {
		f.Tags.Stale = []freshness.StaleRegistry{{Registry: "docker.io", Since: now.Add(-time.Hour), Last: now, Answers: 12}}
	}},
	{"pulls-exhausted/docker.io/anonymous", "no more pulls, as of 11:59", pulls(limit(0, 0))},
	{"pulls-exhausted/docker.io/anonymous", "for 2 h", pulls(upstream.LimitStatus{Limit: -1, Remaining: 0, Until: now.Add(2 * time.Hour)})},
	{"pulls-end-soon/docker.io/anonymous", "docker.io grants 18 more pulls, at this pace for 40 min", pulls(limit(18, 40*time.Minute))},
	{"credentials-fail/docker.io/credentials", "docker.io refuses the box's credentials (401): pulls go on without them, 100 in 6 h. They were read at 10:02", login(credentials.Status{
		RefusedAt: now.Add(-time.Minute), Asked: time.Date(2026, 11, 28, 10, 2, 0, 0, time.UTC), Renewed: true,
	})},
	{"credentials-fail/docker.io/credentials", "the helper fails", login(credentials.Status{Failure: "the helper fails"})},
	{"certificate-expired/mirror", "expired on 2026-11-27", certificate(-24*time.Hour, "")},
	{"certificate-expires-soon/mirror", "in 10 d", certificate(10*24*time.Hour, "")},
	{"certificate-unusable/mirror", "no key", certificate(60*24*time.Hour, "no key")},
	{"connection-limit/per_client", "one address", met(metrics.LimitPerClient)},
	{"connection-limit/total", "are taken", met(metrics.LimitTotal)},
	{"connection-limit/waiting", "are closed", met(metrics.LimitWaiting)},
	{"file-descriptors-exhausted", "descriptors", met(metrics.LimitDescriptors)},
	{"clients-behind-one-address", "10.1.2.9", func(f *Facts) { f.Gateway = client }},
	{"token-host-refused/docker.io", "docker.io names the token service auth.corp:443, which is not on its list: HUBCAP_UPSTREAM_<n>_TOKEN_HOSTS=auth.corp:443", func(f *Facts) {
		f.Upstreams[0].TokenHost = upstream.RefusedTokenHost{Host: "auth.corp:443", At: now.Add(-9 * time.Minute)}
	}},
	{"tls-to-plain-port/admin", "10.1.2.9 speaks TLS to the plain port", func(f *Facts) { f.Ports[1].TLSClient, f.Ports[1].TLSAt = client, now.Add(-9*time.Minute) }},
	{"clients-refused", "this mirror does not serve 10.1.2.9: HUBCAP_ALLOW_CLIENTS", func(f *Facts) {
		f.Refusals.Clients = []access.RefusedClient{{Client: client, Last: now}}
	}},
	{"registry-not-configured", "3 clients ask for harbor.corp", func(f *Facts) {
		f.Refusals.Registries = []access.UnknownRegistry{{Registry: "harbor.corp", Clients: 3, Last: now}}
	}},
	{"clients-go-around", "10.1.2.9 (docker) went around this box, and 1 more", func(f *Facts) {
		f.Clients = []bypass.Client{
			{Address: client, Family: bypass.Containerd.String(), LastLeft: now.Add(-59 * time.Minute)},
			{Address: client, Family: bypass.Docker.String(), LastLeft: now.Add(-time.Minute)},
		}
	}},
	{"pins-do-not-fit", "pinned images need 90.0 GiB, and 80.0 GiB can be pinned", func(f *Facts) { f.Pins = pins.Overview{Bytes: 90 << 30, Limit: 80 << 30} }},
	{"pins-do-not-fit", "a: 41 GiB are pinned", func(f *Facts) {
		f.Pins.Refused, f.Pinned = "a: 41 GiB are pinned", []pins.Status{{Ref: "a", State: pins.Waiting, Since: now.Add(-time.Hour)}}
	}},
	{"pinned-images-incomplete", "b is not here in full: 2 parts (3 MiB) are missing: no route (and 1 other pinned images)", func(f *Facts) {
		f.Pinned = []pins.Status{
			{Ref: "a", State: pins.Fetching, Since: now.Add(-20 * time.Minute)},
			{Ref: "b", State: pins.Missing, Since: now.Add(-time.Hour), Missing: 2, MissingBytes: 3 << 20, Why: "no route"},
			{Ref: "c", State: pins.Missing, Since: now.Add(-time.Minute)}, {Ref: "d", State: pins.Held},
		}
	}},
	{"pins-file-unusable", "HUBCAP_PINS_FILE=/etc/pins: no such file", func(f *Facts) { f.Pins.File = pins.FileStatus{Path: "/etc/pins", Err: "no such file"} }},
	{"pins-file-unusable", "2 lines of HUBCAP_PINS_FILE=/etc/pins cannot be used; line 7: what", func(f *Facts) {
		f.Pins.File = pins.FileStatus{Path: "/etc/pins", Bad: []pins.BadLine{{Line: 7, Why: "what"}, {Line: 9}}}
	}},
	{"log-lines-lost", "dropped", func(f *Facts) { f.LogLost = now.Add(-9 * time.Minute) }},
	{"outage-gaps", "2 of 40 images that clients have pulled within 30 days could not be pulled in full if all registries failed now: 3 MiB are missing", func(f *Facts) {
		f.Outage = outage.Status{Summary: images.Summary{Days: 30, Images: 40, Ready: 38, Missing: 3 << 20}, Short: now.Add(-7 * time.Hour)}
	}},
	{"box-fails/http://hubcap-1:5000", "http://hubcap-1:5000 gives no answer: no such host", func(f *Facts) {
		f.Boxes = []site.Box{{Name: "http://hubcap-1:5000", Since: now.Add(-3 * time.Minute), Why: "no such host"}, {Name: "http://hubcap-2:5000", Since: now.Add(-time.Minute), Why: "just now"}}
	}},
	{"box-list-wrong/http://hubcap-1:5000", "http://hubcap-1:5000 has another HUBCAP_SITE than this box", func(f *Facts) {
		f.Boxes = []site.Box{{Name: "http://hubcap-1:5000", Wrong: "http://hubcap-1:5000 has another HUBCAP_SITE than this box"}}
	}},
	{"tier-fails", "https://s3.lan/hubcap: the bucket does not exist", func(f *Facts) {
		f.Tier = &tier.Status{Bucket: "https://s3.lan/hubcap", Open: true, Since: now, Why: "the bucket does not exist"}
	}},
	{"tier-not-written", "https://s3.lan/hubcap: it is full; 7 blobs wait", func(f *Facts) {
		f.Tier = &tier.Status{Bucket: "https://s3.lan/hubcap", WriteFailure: "it is full", WriteSince: now.Add(-time.Minute), Queue: 7}
	}},
	{"tier-wrong-content", "https://s3.lan/hubcap: the object of sha256:1 is something else", func(f *Facts) {
		f.Tier = &tier.Status{Bucket: "https://s3.lan/hubcap", Wrong: "sha256:1", WrongAt: now.Add(-time.Minute)}
	}},
	{"offline", "no registry is asked", func(f *Facts) { f.Offline = outage.OfflineStatus{On: true, Configured: true} }},
	{"offline", "no registry is asked until 2026-11-28 12:30 UTC", func(f *Facts) {
		f.Offline = outage.OfflineStatus{On: true, Since: now, Until: now.Add(30 * time.Minute)}
	}},
}

// TestFind shows that each state of a room is its one problem, that each kind is
// found, and that its texts are those of its kind.
func TestFind(t *testing.T) {
	if found := well().Find(); len(found) != 0 {
		t.Errorf("of a box that is well: %+v", found)
	}
	missing := Kinds()
	for _, tc := range wrong {
		f := well()
		tc.change(&f)
		found := f.Find()
		if len(found) != 1 || found[0].ID != tc.id || !strings.Contains(found[0].What, tc.what) {
			t.Errorf("%s: %+v, want %q", tc.id, found, tc.what)
			continue
		}
		i := slices.IndexFunc(Kinds(), func(k Kind) bool { return k.Name == found[0].Runbook })
		if i < 0 {
			t.Errorf("%s is of no kind that is documented", tc.id)
			continue
		}
		k := Kinds()[i]
		if p := found[0]; p.Severity != k.Severity || p.Impact != k.Impact || p.Do == "" || !strings.HasPrefix(p.ID, k.Name) {
			t.Errorf("%s: %+v, want %+v", tc.id, p, k)
		}
		missing = slices.DeleteFunc(missing, func(one Kind) bool { return one.Name == k.Name })
	}
	for _, k := range missing {
		t.Errorf("%s is never found", k.Name)
	}
}

// TestNoProblem shows states that look like a problem and are none.
func TestNoProblem(t *testing.T) {
	for name, change := range map[string]func(*Facts){
		"few pulls left that are not used":       pulls(limit(10, -1)),
		"few pulls left that last":               pulls(limit(10, 5*time.Hour)),
		"a fast pace with many pulls left":       pulls(limit(60, 30*time.Minute)),
		"pulls that a past window had exhausted": pulls(upstream.LimitStatus{Limit: 100, Remaining: 0, Window: time.Hour, Stated: now.Add(-2 * time.Hour)}),
		"no limit is stated":                     pulls(upstream.LimitStatus{Limit: -1, Remaining: -1, Exhausted: 0}),
		"credentials that were accepted again":   login(credentials.Status{Usable: true, Accepted: now, Failure: "slow"}),
		"a limit of connections met a while ago": func(f *Facts) {
			f.Limits.Met = map[metrics.ConnectionLimit]time.Time{metrics.LimitTotal: now.Add(-time.Hour)}
		},
		"TLS an hour ago":                      func(f *Facts) { f.Ports[1].TLSClient, f.Ports[1].TLSAt = client, now.Add(-time.Hour) },
		"a space that cannot be read":          func(f *Facts) { f.Space = blobs.Space{} },
		"a late scrub with nothing left to do": func(f *Facts) { f.Started = now.Add(-100 * 24 * time.Hour) },
		"idle connections closed to make room": met(metrics.LimitIdle),
		"the pulls of a client's own account": func(f *Facts) {
			f.Upstreams[0].Identities[0] = upstream.IdentityStatus{Identity: "client", Limit: limit(0, 0)}
		},
		"the anonymous limit, with credentials": func(f *Facts) { pulls(limit(0, 0))(f); login(credentials.Status{Usable: true})(f) },
	} {
		f := well()
		change(&f)
		if found := f.Find(); len(found) != 0 {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// TestStaleTagsAreExplained shows that stale tags are no problem of their own
// where their registry has one.
func TestStaleTagsAreExplained(t *testing.T) {
	f := well()
	f.Upstreams[0].Hosts[0].Circuit = "open"
	f.Tags.Stale = []freshness.StaleRegistry{{Registry: "docker.io"}, {Registry: "ghcr.io"}}
	var ids []string
	for _, p := range f.Find() {
		ids = append(ids, p.ID)
	}
	if !slices.Equal(ids, []string{"upstream-fails/docker.io", "tags-stale/ghcr.io"}) {
		t.Error(ids)
	}
}
