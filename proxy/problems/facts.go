package problems

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"hubcap/cache"
	"hubcap/cache/blobs"
	"hubcap/eviction"
	"hubcap/metrics"
	"hubcap/proxy/access"
	"hubcap/proxy/advice"
	"hubcap/proxy/bypass"
	"hubcap/proxy/freshness"
	"hubcap/proxy/outage"
	"hubcap/proxy/pins"
	"hubcap/proxy/port"
	"hubcap/proxy/site"
	"hubcap/proxy/tier"
	"hubcap/proxy/upstream"
	"hubcap/proxy/upstream/credentials"
)

// Facts are what the rooms know at one moment.
type Facts struct {
	Now            time.Time
	Started        time.Time // of this process
	VerifyInterval time.Duration
	MinFree        int64 // bytes that are to stay free in the file system
	Cache          cache.Status
	Ledger         eviction.Status
	Space          blobs.Space // zero when it cannot be read
	Upstreams      []upstream.Status
	Tags           freshness.Status
	Ports          []port.Status
	Limits         port.LimitsStatus
	Refusals       access.RefusalsStatus
	Clients        []bypass.Client
	Pins           pins.Overview
	Pinned         []pins.Status
	Outage         outage.Status
	Offline        outage.OfflineStatus
	Boxes          []site.Box
	Tier           *tier.Status // nil for none
	Gateway        netip.Addr   // a suspected one; invalid for none
	LogLost        time.Time    // when lines of the log were last dropped; zero for never
}

// The bounds of the rules.
const (
	lately       = 10 * time.Minute    // since a client made a mistake, or a line was lost
	metLately    = time.Minute         // since a limit was met
	lacksLong    = 10 * time.Minute    // since a pinned image was seen not to be here
	leftLately   = time.Hour           // since a client left
	expiresSoon  = 14 * 24 * time.Hour // a certificate
	endsSoon     = time.Hour           // a pull limit
	fewLeft      = 0.3                 // of a pull limit
	growShare    = 0.9                 // of the cache size, that there must be room for
	pullWindow   = 6 * time.Hour       // of a pull limit that does not state it: Docker Hub's
	scrubbedLate = 2                   // verify intervals
	failsLong    = 2 * time.Minute     // since a box gave no answer
	wrongLately  = time.Hour           // since an object of the tier was wrong
	// since no blob has been written to the tier: one that fails is tried again
	notWrittenLong = 10 * time.Second
	gapsLong       = 6 * time.Hour // since too few images would survive an outage
)

// finder collects the problems that facts show.
type finder struct {
	Facts
	found []Problem
}

// Find returns the problems that the facts show. Since is set where a room
// knows it.
func (f Facts) Find() []Problem {
	all := finder{Facts: f}
	all.disk()
	all.limits()
	all.certificates()
	all.clients()
	for _, u := range f.Upstreams {
		all.upstream(u)
	}
	all.tags()
	all.pins()
	if !f.LogLost.IsZero() && f.Now.Sub(f.LogLost) < lately {
		all.add(logLost, "", "lines of the log were dropped, the last ones at "+f.LogLost.Format(time.TimeOnly))
	}
	all.outage()
	all.boxes()
	if f.Tier != nil {
		all.tier(*f.Tier)
	}
	return all.found
}

// add adds a problem, about a subject if there may be several of its kind.
func (f *finder) add(k Kind, subject, what string) *Problem {
	id := k.Name
	if subject != "" {
		id += "/" + subject
	}
	f.found = append(f.found, Problem{ID: id, Severity: k.Severity, What: what, Impact: k.Impact, Do: k.Do, Runbook: k.Name})
	return &f.found[len(f.found)-1]
}

// degradations are the kinds of what a cache reports of its disk.
var degradations = map[cache.Problem]Kind{
	cache.ProblemReadOnly: readOnly, cache.ProblemSpace: full, cache.ProblemInodes: noInodes,
	cache.ProblemWrites: writesFail, cache.ProblemReads: readsFail, cache.ProblemIndex: indexInMemory,
}

func (f *finder) disk() {
	for _, d := range f.Cache.Degraded {
		kind := degradations[d.Problem]
		what := kind.When
		switch {
		case d.Problem == cache.ProblemSpace:
			what += fmt.Sprintf(": %s are free", advice.Size(f.Space.Free))
		case d.Problem == cache.ProblemReads && f.Cache.Unreadable > 0:
			what = fmt.Sprintf("%d cached files, or directories of them, cannot be read at the moment", f.Cache.Unreadable)
		}
		f.add(kind, "", what).Since = d.Since
	}
	used, budget := f.Ledger.Used(), f.Ledger.Budget
	if room := used + max(f.Space.Free-f.MinFree, 0); f.Space.Total > 0 && float64(room) < growShare*float64(budget) {
		f.add(cannotGrow, "", fmt.Sprintf("the cache may take %s, and the file system has room for %s of it", advice.Size(budget), advice.Size(room)))
	}
	last := f.Cache.Scrub.Ended
	if last.Before(f.Started) {
		last = f.Started
	}
	if late := f.Now.Sub(last); f.Cache.Scrub.Due > 0 && late > scrubbedLate*f.VerifyInterval {
		f.add(scrubLate, "", fmt.Sprintf("no round of verifications has ended for %s, and %d objects are left in this one", advice.Duration(late), f.Cache.Scrub.Due))
	}
}

func (f *finder) limits() {
	for _, one := range []struct {
		limit metrics.ConnectionLimit
		what  string
	}{
		{metrics.LimitPerClient, fmt.Sprintf("one address has reached its %d connections", f.Limits.PerClient)},
		{metrics.LimitTotal, fmt.Sprintf("all %d connections are taken", f.Limits.Total)},
		{metrics.LimitWaiting, "too many connections of one address wait, and further ones are closed"},
	} {
		if f.met(one.limit) {
			f.add(connectionLimit, one.limit.String(), one.what)
		}
	}
	if f.met(metrics.LimitDescriptors) {
		f.add(noDescriptors, "", noDescriptors.When)
	}
}

// met reports whether a limit of connections was met lately.
func (f *finder) met(limit metrics.ConnectionLimit) bool {
	at, ever := f.Limits.Met[limit]
	return ever && f.Now.Sub(at) < metLately
}

func (f *finder) certificates() {
	seen := make(map[string]bool) // several mirror ports have one certificate
	for _, p := range f.Ports {
		c := p.Certificate
		if c == nil || seen[p.Name] {
			continue
		}
		seen[p.Name] = true
		switch left := c.Expires.Sub(f.Now); {
		case left <= 0:
			f.add(certificateExpired, p.Name, fmt.Sprintf("the certificate of the %s port (%s) expired on %s", p.Name, c.File, c.Expires.Format(time.DateOnly)))
		case left < expiresSoon:
			f.add(certificateExpires, p.Name, fmt.Sprintf("the certificate of the %s port (%s) expires on %s, in %s", p.Name, c.File, c.Expires.Format(time.DateOnly), advice.Duration(left)))
		}
		if c.Failure != "" {
			f.add(certificateUnusable, p.Name, "a new certificate of the "+p.Name+" port cannot be used: "+c.Failure)
		}
	}
}

// clients finds what clients do by mistake.
func (f *finder) clients() {
	for _, p := range f.Ports {
		if p.TLSClient.IsValid() && f.Now.Sub(p.TLSAt) < lately {
			f.add(tlsToPlain, p.Name, advice.TLSToPlainPort(p.TLSClient))
		}
	}
	if refused := f.Refusals.Clients; len(refused) > 0 {
		what := advice.ClientRefused(refused[0].Client)
		if n := len(refused) - 1; n > 0 {
			what += fmt.Sprintf(" (and %d other addresses)", n)
		}
		f.add(clientsRefused, "", what)
	}
	if unknown := f.Refusals.Registries; len(unknown) > 0 {
		what := advice.NotConfigured(unknown[0].Registry, unknown[0].Clients)
		if n := len(unknown) - 1; n > 0 {
			what += fmt.Sprintf(" (and %d other registries)", n)
		}
		f.add(notConfigured, "", what)
	}
	f.around()
	if f.Gateway.IsValid() {
		f.add(oneGateway, "", "all requests come from "+f.Gateway.String())
	}
}

// around adds the clients that left for the registry lately.
func (f *finder) around() {
	var last bypass.Client
	n := 0
	for _, c := range f.Clients {
		if f.Now.Sub(c.LastLeft) < leftLately {
			n++
			if c.LastLeft.After(last.LastLeft) {
				last = c
			}
		}
	}
	if n == 0 {
		return
	}
	what := fmt.Sprintf("%s (%s) went around this box", last.Address, last.Family)
	if n > 1 {
		what += fmt.Sprintf(", and %d more", n-1)
	}
	f.add(goAround, "", what)
}

func (f *finder) upstream(u upstream.Status) {
	var failing, limited []string
	since := f.Now
	for _, h := range u.Hosts {
		if h.Circuit != "closed" {
			failing = append(failing, fmt.Sprintf("its %s %s fails (%s)", role(h), h.Host, h.Failure))
			since = earlier(since, h.Since)
		}
		if f.Now.Before(h.LimitedUntil) {
			limited = append(limited, fmt.Sprintf("its %s %s for %s", role(h), h.Host, advice.Duration(h.LimitedUntil.Sub(f.Now))))
		}
	}
	if len(failing) > 0 {
		f.add(upstreamFails, u.Host, u.Host+": "+strings.Join(failing, ", ")).Since = since
	}
	if len(limited) > 0 {
		f.add(tooManyRequests, u.Host, u.Host+" wants no requests: "+strings.Join(limited, ", "))
	}
	if t := u.TokenHost; t.Host != "" && f.Now.Sub(t.At) < lately {
		f.add(tokenHostRefused, u.Host, advice.TokenHost(u.Host, t.Host))
	}
	for _, identity := range u.Identities {
		f.login(u, identity)
		f.pulls(u, identity)
	}
}

// role is the role of a host in words.
func role(h upstream.HostStatus) string {
	switch h.Role {
	case "registry":
		return "host"
	case "token":
		return "token service"
	default:
		return "download host"
	}
}

func earlier(a, b time.Time) time.Time {
	if !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// login finds credentials that fail.
func (f *finder) login(u upstream.Status, i upstream.IdentityStatus) {
	c := i.Credentials
	if c == nil {
		return
	}
	var p *Problem
	switch {
	case !c.RefusedAt.IsZero():
		l := advice.Login{Registry: u.Host, Limit: -1}
		if anonymous, ok := identityOf(u, "anonymous"); ok {
			l.Limit, l.Window = anonymous.Limit.Limit, anonymous.Limit.Window
		}
		if c.Renewed {
			l.Read = c.Asked
		}
		p = f.add(credentialsFail, subject(u, i), advice.LoginRefused(l))
		p.Since = c.RefusedAt
	case c.Failure != "" && !c.Usable:
		p = f.add(credentialsFail, subject(u, i), u.Host+": the source of the box's credentials gives none: "+c.Failure)
	default:
		return
	}
	p.Do = credentials.Advice(c.Kind, u.Host)
}

// subject is the registry and identity that a problem is about. Credentials that
// are for some repositories only are told apart by their globs.
func subject(u upstream.Status, i upstream.IdentityStatus) string {
	s := u.Host + "/" + i.Identity
	if len(i.Repositories) > 0 {
		s += "/" + strings.Join(i.Repositories, ",")
	}
	return s
}

func identityOf(u upstream.Status, name string) (upstream.IdentityStatus, bool) {
	i := slices.IndexFunc(u.Identities, func(i upstream.IdentityStatus) bool { return i.Identity == name && len(i.Repositories) == 0 })
	if i < 0 {
		return upstream.IdentityStatus{}, false
	}
	return u.Identities[i], true
}

// pulls finds pull limits that are reached, or will be. The limit of clients'
// own accounts is theirs, and the anonymous one does not matter while the box's
// credentials are used.
func (f *finder) pulls(u upstream.Status, i upstream.IdentityStatus) {
	if i.Identity == "client" {
		return
	}
	if own, ok := identityOf(u, "credentials"); ok && i.Identity == "anonymous" && own.Credentials != nil && own.Credentials.Usable {
		return
	}
	l := i.Limit
	window := l.Window
	if window <= 0 {
		window = pullWindow
	}
	known := l.Remaining >= 0 && f.Now.Before(l.Stated.Add(window))
	who := u.Host + " grants"
	switch {
	case f.Now.Before(l.Until):
		f.add(pullsExhausted, subject(u, i), fmt.Sprintf("%s no more pulls for %s", who, advice.Duration(l.Until.Sub(f.Now))))
	case known && l.Remaining == 0:
		f.add(pullsExhausted, subject(u, i), fmt.Sprintf("%s no more pulls, as of %s", who, l.Stated.Format("15:04")))
	case known && l.Exhausted >= 0 && l.Exhausted < endsSoon && float64(l.Remaining) < fewLeft*float64(l.Limit):
		f.add(pullsEndSoon, subject(u, i), fmt.Sprintf("%s %d more pulls, at this pace for %s", who, l.Remaining, advice.Duration(l.Exhausted)))
	}
}

// tags finds registries that refuse everything, and stale tags for which no other
// problem of their registry is the reason.
func (f *finder) tags() {
	for _, r := range f.Tags.Refusing {
		f.add(refusesAll, r.Registry, fmt.Sprintf("all of %s refuses: %s", r.Registry, strings.Join(r.Repositories, ", ")))
	}
	explained := func(registry string) bool {
		return slices.ContainsFunc(f.found, func(p Problem) bool {
			return p.Runbook != tagsStale.Name && (strings.HasSuffix(p.ID, "/"+registry) || strings.Contains(p.ID, "/"+registry+"/"))
		})
	}
	for _, s := range f.Tags.Stale {
		if !explained(s.Registry) {
			f.add(tagsStale, s.Registry, fmt.Sprintf("%d answers about tags of %s were stale", s.Answers, s.Registry)).Since = s.Since
		}
	}
}

// boxes finds other boxes that fail, and entries of their lists that are wrong.
func (f *finder) boxes() {
	for _, b := range f.Boxes {
		if b.Wrong != "" {
			f.add(listWrong, b.Name, b.Wrong)
		}
		if !b.Since.IsZero() && f.Now.Sub(b.Since) > failsLong {
			f.add(boxFails, b.Name, b.Name+" gives no answer: "+b.Why).Since = b.Since
		}
	}
}

// outage finds that too few images would survive an outage, and that the box plays
// one.
func (f *finder) outage() {
	if o := f.Outage; !o.Short.IsZero() && f.Now.Sub(o.Short) > gapsLong {
		what := fmt.Sprintf("%d of %d images that clients have pulled within %d days could not be pulled in full if all registries failed now", o.Images-o.Ready, o.Images, o.Days)
		if o.Missing > 0 {
			what += fmt.Sprintf(": %s are missing", advice.Size(o.Missing))
		}
		f.add(outageGaps, "", what).Since = o.Short
	}
	if !f.Offline.On {
		return
	}
	what := "no registry is asked"
	if !f.Offline.Until.IsZero() {
		what += " until " + f.Offline.Until.Format("2006-01-02 15:04 MST")
	}
	f.add(offline, "", what).Since = f.Offline.Since
}

// tier finds that the bucket behind the boxes is not asked, takes nothing, or lies.
func (f *finder) tier(t tier.Status) {
	if t.Open {
		f.add(tierFails, "", t.Bucket+": "+t.Why).Since = t.Since
	}
	if t.WriteFailure != "" && f.Now.Sub(t.WriteSince) > notWrittenLong {
		f.add(tierNotWritten, "", fmt.Sprintf("%s: %s; %d blobs wait", t.Bucket, t.WriteFailure, t.Queue)).Since = t.WriteSince
	}
	if !t.WrongAt.IsZero() && f.Now.Sub(t.WrongAt) < wrongLately {
		f.add(tierWrong, "", fmt.Sprintf("%s: the object of %s is something else", t.Bucket, t.Wrong)).Since = t.WrongAt
	}
}

// pins finds pinned images that do not fit or are not here, and a pins file that
// cannot be used.
func (f *finder) pins() {
	switch o := f.Pins; {
	case o.Bytes > o.Limit:
		f.add(pinsDoNotFit, "", fmt.Sprintf("pinned images need %s, and %s can be pinned", advice.Size(o.Bytes), advice.Size(o.Limit)))
	case o.Refused != "":
		f.add(pinsDoNotFit, "", o.Refused)
	}
	var lacking []pins.Status
	for _, s := range f.Pinned {
		refused := s.State == pins.Waiting && f.Pins.Refused != ""
		if s.State != pins.Held && f.Now.Sub(s.Since) > lacksLong && !refused {
			lacking = append(lacking, s)
		}
	}
	if len(lacking) > 0 {
		first := slices.MinFunc(lacking, func(a, b pins.Status) int { return a.Since.Compare(b.Since) })
		what := first.Ref + " is not here in full"
		if first.Missing > 0 {
			what += fmt.Sprintf(": %d parts (%s) are missing", first.Missing, advice.Size(first.MissingBytes))
		}
		if first.Why != "" {
			what += ": " + first.Why
		}
		if n := len(lacking) - 1; n > 0 {
			what += fmt.Sprintf(" (and %d other pinned images)", n)
		}
		f.add(pinnedMissing, "", what).Since = first.Since
	}
	switch file := f.Pins.File; {
	case file.Err != "":
		f.add(pinsFile, "", fmt.Sprintf("HUBCAP_PINS_FILE=%s: %s", file.Path, file.Err))
	case len(file.Bad) > 0:
		f.add(pinsFile, "", fmt.Sprintf("%d lines of HUBCAP_PINS_FILE=%s cannot be used; line %d: %s", len(file.Bad), file.Path, file.Bad[0].Line, file.Bad[0].Why))
	}
}
