package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"hubcap/proxy/advice"
	"hubcap/proxy/server"
	"hubcap/proxy/upstream"
)

// The least offset of the clock that is told, and that fails: certificates and
// tokens of registries are valid from their clock's now.
const (
	clockOff   = 30 * time.Second
	clockWrong = 5 * time.Minute
)

// Docker Hub's own repository for looking at the pull limit
// (docs.docker.com/docker-hub/usage/pulls); a HEAD of it costs no pull.
const (
	limitRepository = "ratelimitpreview/test"
	limitTag        = "latest"
)

// registry is one upstream and what asking it showed.
type registry struct {
	entry  upstream.Entry
	wanted bool // the operator has configured it; it is no preset that may be blocked on purpose

	unresolved  error
	failure     error // it does not answer as a registry does
	probe       upstream.Probe
	login       error // its credentials are refused, or their source gives none
	logsIn      bool
	limitFailed error
	status      upstream.Status
}

// registries asks each configured registry and reports on names, clock, answers,
// limits and credentials.
func (d *doctor) registries(ctx context.Context) {
	if d.config.Offline {
		return // the configuration's warning says so
	}
	set, err := server.Upstreams(d.config, server.Options{Log: d.log, Version: d.o.Version, Proxy: d.o.Proxy, Now: d.o.Now})
	if err != nil {
		d.add("registry", Failed, err.Error(), "")
		return
	}
	all := d.ask(ctx, set)
	d.names(all)
	d.clock(all)
	d.answers(all)
	for _, r := range all {
		if r.logsIn && r.failure == nil {
			d.credentials(r)
		}
	}
}

// ask asks all registries at the same time; patterns have no host to ask.
func (d *doctor) ask(ctx context.Context, set *upstream.Set) (all []*registry) {
	preset := func(host string) bool {
		return slices.ContainsFunc(upstream.Presets(), func(p upstream.Preset) bool { return p.Host == host })
	}
	var asking sync.WaitGroup
	for _, e := range d.config.Upstreams {
		if strings.HasPrefix(e.Host, "*") {
			continue
		}
		r := &registry{entry: e, wanted: e.Host == d.config.DefaultUpstream || e.HasLogin() || !preset(e.Host)}
		all = append(all, r)
		asking.Go(func() { d.askOne(ctx, set, r) })
	}
	asking.Wait()
	return all
}

func (d *doctor) askOne(ctx context.Context, set *upstream.Set, r *registry) {
	u, ok := set.Find(r.entry.Host)
	if !ok {
		return // it is configured
	}
	if through, err := d.o.Proxy(&http.Request{URL: r.entry.URL}); err == nil && through == nil { // the proxy resolves names itself
		_, r.unresolved = net.DefaultResolver.LookupNetIP(ctx, "ip", r.entry.URL.Hostname())
	}
	if r.unresolved != nil {
		r.failure = r.unresolved
		return
	}
	if r.probe, r.failure = u.Anonymous.Probe(ctx); r.failure != nil {
		return
	}
	for _, own := range u.Owns() {
		r.logsIn = true
		if err := own.CheckLogin(ctx); r.login == nil {
			r.login = err
		}
	}
	if r.entry.Host == upstream.DockerHub {
		_, r.limitFailed = u.Anonymous.HeadManifest(ctx, limitRepository, limitTag)
		if u.Own != nil && r.login == nil {
			_, _ = u.Own.HeadManifest(ctx, limitRepository, limitTag) // CheckLogin has shown that it answers
		}
	}
	r.status = u.Status()
}

// names reports on name resolution.
func (d *doctor) names(all []*registry) {
	var failed []string
	state := Warning
	for _, r := range all {
		if r.unresolved == nil {
			continue
		}
		one := fmt.Sprintf("%s (%v)", r.entry.URL.Hostname(), short(r.unresolved))
		if !slices.Contains(failed, one) { // lscr.io is at ghcr.io
			failed = append(failed, one)
		}
		if r.wanted {
			state = Failed
		}
	}
	if len(failed) > 0 {
		d.add("names", state, "not resolved: "+strings.Join(failed, ", "), "check /etc/resolv.conf and the site's name server; behind a proxy set HTTPS_PROXY")
		return
	}
	d.add("names", OK, fmt.Sprintf("the names of %d registries are resolved", len(all)), "")
}

// short returns the reason of a failed look-up.
func short(err error) string {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.Err
	}
	return err.Error()
}

// clock compares this machine's clock with the median of the registries'.
func (d *doctor) clock(all []*registry) {
	var offsets []time.Duration
	for _, r := range all {
		if !r.probe.Date.IsZero() {
			offsets = append(offsets, r.probe.Date.Sub(d.o.Now()).Round(time.Second))
		}
	}
	if len(offsets) == 0 {
		d.add("clock", Warning, "not compared: no registry has told the time", "")
		return
	}
	slices.Sort(offsets)
	off := offsets[len(offsets)/2]
	direction := "behind"
	if off < 0 {
		direction = "ahead of"
	}
	what := fmt.Sprintf("%s %s the registries'", advice.Duration(off.Abs()), direction)
	const do = "synchronise the clock (timedatectl set-ntp true): certificates and tokens are refused by a wrong one"
	switch {
	case off.Abs() >= clockWrong:
		d.add("clock", Failed, what, do)
	case off.Abs() >= clockOff:
		d.add("clock", Warning, what, do)
	default:
		d.add("clock", OK, "right", "")
	}
}

// answers reports on each registry: those that the operator has configured and
// those that fail in a line of their own.
func (d *doctor) answers(all []*registry) {
	var others []string
	for _, r := range all {
		state := Warning // where it is in trouble
		if r.wanted {
			state = Failed
		}
		switch {
		case r.unresolved != nil: // names has said it
		case r.failure != nil:
			d.add("registry", state, r.entry.Host+": "+withoutURL(r.failure).Error(), registryAdvice(r.failure))
		case r.status.TokenHost.Host != "":
			d.add("registry", state, advice.TokenHost(r.entry.Host, r.status.TokenHost.Host), "set that variable; until then no image that needs a token comes from there")
		case r.limitFailed != nil:
			d.add("registry", Warning, fmt.Sprintf("%s, but not about its pull limit: %v", answers(r), r.limitFailed), limitAdvice(r.limitFailed))
		case r.wanted:
			d.limits(r)
		default:
			others = append(others, r.entry.Host)
		}
	}
	if len(others) > 0 {
		d.add("registry", OK, fmt.Sprintf("%d further ones answer: %s", len(others), strings.Join(others, ", ")), "")
	}
}

func answers(r *registry) string {
	return fmt.Sprintf("%s answers in %d ms", r.entry.Host, r.probe.Took.Milliseconds())
}

// limits reports on a registry that answers, with its pull limits.
func (d *doctor) limits(r *registry) {
	what, left := answers(r), 1
	for _, i := range r.status.Identities {
		if l := i.Limit; l.Limit >= 0 && l.Remaining >= 0 {
			what += fmt.Sprintf("; %d of %d pulls left (%s)", l.Remaining, l.Limit, i.Identity)
			left = l.Remaining // of the box's credentials, if there are any: they come last
		}
	}
	if left == 0 {
		d.add("registry", Failed, what, "wait until the window ends, or log the box in (HUBCAP_UPSTREAM_<n>_USERNAME)")
		return
	}
	d.add("registry", OK, what, "")
}

// registryAdvice returns what to do about a registry that fails.
func registryAdvice(err error) string {
	var e *upstream.Error
	switch {
	case !errors.As(err, &e):
		return "check name, route and firewall"
	case strings.Contains(e.Error(), "HUBCAP_"): // it says what to do
		return "set that variable, if the address or authority is the right one"
	case e.Kind == upstream.RateLimited:
		return "wait; look for others who ask that registry from the same address"
	case e.Kind == upstream.NotFound || e.Kind == upstream.Denied || e.Kind == upstream.Invalid:
		return "check HUBCAP_UPSTREAM_<n>_URL: something answers there that is no registry, such as a firewall's page"
	case e.Kind == upstream.ServerError:
		return "look at the registry's status page"
	default:
		return "check route and firewall; behind a proxy set HTTPS_PROXY"
	}
}

// limitAdvice returns what to do about a Docker Hub that answers, but not about
// its pull limit.
func limitAdvice(err error) string {
	if upstream.IsKind(err, upstream.NotFound) || upstream.IsKind(err, upstream.Denied) {
		return "nothing, if HUBCAP_UPSTREAM_<n>_URL is a registry that stands in for Docker Hub"
	}
	return registryAdvice(err)
}

// credentials reports on the box's credentials for a registry.
func (d *doctor) credentials(r *registry) {
	var e *upstream.Error
	switch {
	case r.login == nil:
		d.add("credentials", OK, r.entry.Host+" accepts the box's credentials", "")
	case errors.As(r.login, &e) && e.Kind == upstream.Denied && e.Status == http.StatusUnauthorized:
		l := advice.Login{Registry: r.entry.Host, Limit: -1}
		for _, i := range r.status.Identities {
			if i.Identity == "anonymous" {
				l.Limit, l.Window = i.Limit.Limit, i.Limit.Window
			}
			if i.Credentials != nil && i.Credentials.Renewed {
				l.Read = i.Credentials.Asked
			}
		}
		d.add("credentials", Failed, advice.LoginRefused(l), "renew HUBCAP_UPSTREAM_<n>_PASSWORD or _TOKEN of the registry")
	default:
		d.add("credentials", Failed, r.entry.Host+": "+r.login.Error(), "check the source of the credentials")
	}
}
