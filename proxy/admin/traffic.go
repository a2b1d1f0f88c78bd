package admin

import (
	"context"
	"net/http"
	"net/netip"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/requests"
)

// GetClients returns who has asked for content.
func (b *Box) GetClients(_ context.Context, q *api.Page) (*api.Clients, error) {
	rows, next := page(b.Clients.Clients(), *q)
	c := &api.Clients{Clients: []api.Client{}, Next: next}
	for _, one := range rows {
		c.Clients = append(c.Clients, api.Client{
			Address: one.Address, Family: one.Family.String(), Pulls: one.Pulls, Bytes: one.Bytes,
			LastSeen: one.LastSeen, Left: one.Left, LastLeft: known(one.LastLeft),
		})
	}
	return c, nil
}

// page returns a part of a list, and where the next one begins; 0 for nowhere.
func page[T any](all []T, q api.Page) (rows []T, next int) {
	all = all[min(q.After, len(all)):]
	if len(all) <= q.Limit {
		return all, 0
	}
	return all[:q.Limit], q.After + q.Limit
}

// GetRequests returns some of the last requests of clients.
func (b *Box) GetRequests(_ context.Context, q *api.RequestsQuery) (*api.Requests, error) {
	f := requests.Filter{Result: q.Result, Image: q.Image}
	if q.Client != "" {
		var err error
		if f.Client, err = network(q.Client); err != nil {
			return nil, &api.Error{
				Status: http.StatusUnprocessableEntity, Detail: "client is neither an address nor a network",
				Errors: []api.FieldErrors{{Location: "query.client", Message: "want an address or a network such as 10.1.0.0/16"}},
			}
		}
	}
	return &api.Requests{Requests: b.Requests.After(q.After, q.Limit, f)}, nil
}

func network(text string) (netip.Prefix, error) {
	if at, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(at, at.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

// GetBypasses returns who has gone around the box.
func (b *Box) GetBypasses(context.Context, *struct{}) (*api.Bypasses, error) {
	found := &api.Bypasses{Suspicions: b.Clients.Suspicions(), Foreign: []api.Foreign{}}
	if found.Suspicions == nil {
		found.Suspicions = []api.Suspicion{}
	}
	for _, u := range b.Upstreams.Status() {
		for _, one := range u.Identities {
			if one.Limit.Foreign > 0 {
				found.Foreign = append(found.Foreign, api.Foreign{Upstream: u.Host, Identity: one.Identity, Pulls: one.Limit.Foreign})
			}
		}
	}
	return found, nil
}
