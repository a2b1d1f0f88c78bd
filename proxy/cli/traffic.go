package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/admin/words"
	"hubcap/proxy/units"
)

// all returns the rows of a list that a route answers in pages: those of the field
// that is named as the route's last part.
func all(ctx context.Context, p *program, path string, query url.Values) (rows []json.RawMessage, err error) {
	query.Set("limit", "1000")
	for {
		answer, err := get[map[string]json.RawMessage](ctx, p, path, query)
		if err != nil {
			return nil, err
		}
		var page []json.RawMessage
		if err := p.box.decode(answer[path], &page); err != nil {
			return nil, err
		}
		rows = append(rows, page...)
		if len(answer["next"]) == 0 || len(page) == 0 {
			return rows, nil
		}
		next := string(answer["next"])
		_ = json.Unmarshal(answer["next"], &next) // a number stays as it is written
		query.Set("after", next)
	}
}

// list prints all rows of a list, by write or as one JSON document.
func list[T any](ctx context.Context, p *program, path string, query url.Values, write func(o *output, rows []T)) error {
	found, err := all(ctx, p, path, query)
	if err != nil {
		return err
	}
	if p.asJSON {
		return p.printJSON(map[string]any{path: found})
	}
	rows := make([]T, len(found))
	for i, row := range found {
		if err := p.box.decode(row, &rows[i]); err != nil {
			return err
		}
	}
	return p.print(func(o *output) { write(o, rows) })
}

func (p *program) clients() *cobra.Command {
	return p.command("clients", "List who has pulled, and who has gone to a registry itself", 0, 0, func(ctx context.Context, _ []string) error {
		return list(ctx, p, "clients", url.Values{}, printClients)
	})
}

func printClients(o *output, all []api.Client) {
	heading := []string{"ADDRESS", "FAMILY", "PULLS", "BYTES", "SEEN", "WENT AROUND THE BOX"}
	tabulate(o, "No client has come yet. hubcap setup CLIENT prints how one is configured.", heading, all, func(c api.Client) []string {
		left := "-"
		if !c.LastLeft.IsZero() {
			left = fmt.Sprintf("%s, last %s", units.Count(c.Left, "time"), o.Ago(c.LastLeft))
		}
		return []string{c.Address.String(), c.Family, fmt.Sprint(c.Pulls), units.Bytes(c.Bytes), o.Ago(c.LastSeen), left}
	})
}

// values returns a query of names and values, without those that are empty.
func values(all map[string]string) url.Values {
	query := url.Values{}
	for name, value := range all {
		if value != "" {
			query.Set(name, value)
		}
	}
	return query
}

// followEvery is how often hubcap log -f asks for what is new.
const followEvery = time.Second

func (p *program) log() *cobra.Command {
	var follow bool
	var client, result, image string
	var last int
	cmd := p.command("log", "Show the last requests of clients; with -f those that come as well", 0, 0, func(ctx context.Context, _ []string) error {
		query := values(map[string]string{"client": client, "result": result, "image": image})
		query.Set("limit", strconv.Itoa(last))
		if follow {
			return p.followLog(ctx, query)
		}
		_, err := show(ctx, p, "requests", query, func(o *output, a api.Requests) {
			if len(a.Requests) == 0 {
				o.line("There was no such request.")
			}
			for _, r := range a.Requests {
				o.line("%s", requestLine(r))
			}
		})
		return err
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with the requests that come; with --json as an object a line")
	cmd.Flags().IntVarP(&last, "last", "n", 20, "how many requests to show, 1 to 2000")
	cmd.Flags().StringVar(&client, "client", "", "only those of an `address`, or of a network such as 10.1.0.0/16")
	cmd.Flags().StringVar(&result, "result", "", "only those answered in a `way`: hit, confirmed, stale, miss, joined, uncached, not_found, refused, limited or failed")
	cmd.Flags().StringVar(&image, "image", "", "only those whose image has a `text` in its name")
	return cmd
}

// followLog prints requests until ctx ends.
func (p *program) followLog(ctx context.Context, query url.Values) error {
	for {
		a, err := get[struct{ Requests []json.RawMessage }](ctx, p, "requests", query)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the user has ended it
		}
		if err != nil {
			return err
		}
		for _, one := range a.Requests {
			var r api.Request
			if err := p.box.decode(one, &r); err != nil {
				return err
			}
			query.Set("after", strconv.FormatInt(r.ID, 10))
			if p.asJSON {
				_, err = fmt.Fprintln(p.Stdout, string(one))
			} else {
				err = p.say("%s", requestLine(r))
			}
			if err != nil {
				return err
			}
		}
		if len(a.Requests) > 0 {
			query.Set("limit", "2000")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

// requestLine describes a request: when, who, what, how, and where the bytes came from.
func requestLine(r api.Request) string {
	line := fmt.Sprintf("%s  %-15s %-10s  %s  %s  %s  %s",
		r.At.Local().Format(time.TimeOnly), r.Client, r.Family, strings.TrimPrefix(words.Request(r), "docker.io/"), r.Result, units.Bytes(r.Bytes), words.Took(r.TookS))
	switch from := origins[r.Result]; {
	case r.Status >= http.StatusBadRequest:
		status := fmt.Sprintf("%d ", r.Status)
		line += "  " + strings.TrimSpace(status+strings.TrimPrefix(r.Error, status)) // refusals of hubcap's own begin with it
	case from != "":
		line += "  " + strings.ReplaceAll(from, "REGISTRY", r.Registry)
	}
	return line
}

// origins say where the bytes of an answer came from.
var origins = map[string]string{
	"hit": "nothing from the internet", "confirmed": "REGISTRY was asked, nothing was fetched", "stale": "REGISTRY fails, served from the cache",
	"miss": "from REGISTRY, kept", "joined": "along with a download that ran", "uncached": "from REGISTRY, not kept",
}
