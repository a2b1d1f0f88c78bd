package cli

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
)

// completeWithin is how long a shell may wait for the names of what there is.
const completeWithin = 2 * time.Second

// candidates returns what a shell offers: what a route answers, without a word
// where no hubcap answers.
func candidates[T any](p *program, path string, query url.Values, names func(T) []string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completeWithin)
	defer cancel()
	b, err := p.find()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	answer, err := ask[T](ctx, b, http.MethodGet, path, query, nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names(answer), cobra.ShellCompDirectiveNoFileComp
}

// completeJobs offers the jobs that are not over.
func (p *program) completeJobs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return candidates(p, "jobs", nil, func(a api.Jobs) (names []string) {
		for _, j := range a.Jobs {
			if !j.State.Over() {
				names = append(names, j.ID+"\t"+plain(j.What))
			}
		}
		return names
	})
}

// completeImages offers the tags that clients have asked for of late.
func (p *program) completeImages(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	return candidates(p, "requests", url.Values{"limit": {"2000"}, "image": {begun}}, func(a api.Requests) (names []string) {
		for _, r := range a.Requests {
			if name := r.Image(); r.Tag != "" && r.Status < http.StatusBadRequest && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		return names
	})
}
