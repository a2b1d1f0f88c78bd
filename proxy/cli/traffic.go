package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
)

// all returns the rows of a list that a route answers in pages: those of the field
// that is named as the route's last part.
func all(ctx context.Context, b *box, path string, query url.Values) (rows []json.RawMessage, err error) {
	query.Set("limit", "1000")
	for {
		answer, err := ask[map[string]json.RawMessage](ctx, b, http.MethodGet, path, query, nil)
		if err != nil {
			return nil, err
		}
		var page []json.RawMessage
		if err := b.decode(answer[path], &page); err != nil {
			return nil, err
		}
		rows = append(rows, page...)
		if len(answer["next"]) == 0 || len(page) == 0 {
			return rows, nil
		}
		query.Set("after", string(answer["next"]))
	}
}

// list prints all rows of a list, by print or as one JSON document.
func list[T any](ctx context.Context, p *program, path string, query url.Values, print func(w io.Writer, rows []T) error) error {
	b, err := p.find()
	if err != nil {
		return err
	}
	found, err := all(ctx, b, path, query)
	if err != nil {
		return err
	}
	if p.asJSON {
		document, err := json.Marshal(map[string]any{path: found})
		if err != nil {
			return err
		}
		return writeJSON(p.Stdout, document)
	}
	rows := make([]T, len(found))
	for i, row := range found {
		if err := b.decode(row, &rows[i]); err != nil {
			return err
		}
	}
	return print(p.Stdout, rows)
}

func (p *program) clients() *cobra.Command {
	return &cobra.Command{
		Use:   "clients",
		Short: "List who has pulled, and who has gone to a registry itself",
		Args:  takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return list(cmd.Context(), p, "clients", url.Values{}, func(w io.Writer, rows []api.Client) error {
				if len(rows) == 0 {
					_, err := fmt.Fprintln(w, "No client has come yet. hubcap setup CLIENT prints how one is configured.")
					return err
				}
				t := newTable(w, "ADDRESS", "FAMILY", "PULLS", "BYTES", "SEEN", "WENT AROUND THE BOX")
				for _, c := range rows {
					left := "-"
					if c.LastLeft != nil {
						left = fmt.Sprintf("%s, last %s", count(c.Left, "time"), p.ago(*c.LastLeft))
					}
					t.row(c.Address.String(), c.Family, fmt.Sprint(c.Pulls), size(c.Bytes), p.ago(c.LastSeen), left)
				}
				return t.end()
			})
		},
	}
}

// followEvery is how often hubcap log -f asks for what is new.
const followEvery = time.Second

func (p *program) log() *cobra.Command {
	var follow bool
	var client, result, image string
	var last int
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Show the last requests of clients; with -f those that come as well",
		Args:  takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := p.find()
			if err != nil {
				return err
			}
			query := url.Values{"limit": {strconv.Itoa(last)}}
			for name, value := range map[string]string{"client": client, "result": result, "image": image} {
				if value != "" {
					query.Set(name, value)
				}
			}
			if follow {
				return p.followLog(cmd.Context(), b, query)
			}
			_, err = show(cmd.Context(), p, "requests", query, func(w io.Writer, a api.Requests) error {
				if len(a.Requests) == 0 {
					_, err := fmt.Fprintln(w, "There was no such request.")
					return err
				}
				return writeRequests(w, a.Requests)
			})
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with the requests that come; with --json as an object a line")
	cmd.Flags().IntVarP(&last, "last", "n", 20, "how many requests to show, 1 to 2000")
	cmd.Flags().StringVar(&client, "client", "", "only those of an `address`, or of a network such as 10.1.0.0/16")
	cmd.Flags().StringVar(&result, "result", "", "only those answered in a `way`: hit, confirmed, stale, miss, joined, uncached, not_found, refused, limited or failed")
	cmd.Flags().StringVar(&image, "image", "", "only those whose image has a `text` in its name")
	return cmd
}

// followLog prints requests until ctx ends.
func (p *program) followLog(ctx context.Context, b *box, query url.Values) error {
	for {
		text, err := b.document(ctx, http.MethodGet, "requests", query, nil)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the user has ended it
		}
		if err != nil {
			return err
		}
		var a struct{ Requests []json.RawMessage }
		if err := b.decode(text, &a); err != nil {
			return err
		}
		for _, one := range a.Requests {
			var r api.Request
			if err := b.decode(one, &r); err != nil {
				return err
			}
			query.Set("after", strconv.FormatInt(r.ID, 10))
			if err := p.writeRequest(one, r); err != nil {
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

// writeRequest writes a request as a line, which is document with --json.
func (p *program) writeRequest(document []byte, r api.Request) error {
	if p.asJSON {
		_, err := fmt.Fprintf(p.Stdout, "%s\n", document)
		return err
	}
	return writeRequests(p.Stdout, []api.Request{r})
}

func writeRequests(w io.Writer, all []api.Request) error {
	for _, r := range all {
		what := r.Image()
		if r.Tag == "" && r.Digest != "" {
			what = r.Registry + "/" + r.Repository + "@" + short(r.Digest)
		}
		line := fmt.Sprintf("%s  %-15s %-10s %-9s %9s %8s  %s", r.At.Local().Format(time.TimeOnly), r.Client, r.Family, r.Result, size(r.Bytes), took(r.TookS), what)
		if r.Status >= http.StatusBadRequest {
			line += fmt.Sprintf("  %d %s", r.Status, r.Error)
		}
		if _, err := fmt.Fprintln(w, plain(line)); err != nil {
			return err
		}
	}
	return nil
}

// took returns a duration in seconds with its unit.
func took(s float64) string {
	if s < 1 {
		return fmt.Sprintf("%.0f ms", s*1000)
	}
	return fmt.Sprintf("%.1f s", s)
}
