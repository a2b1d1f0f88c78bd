package cli

import (
	"context"
	"net/url"
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
	answer, err := get[T](ctx, p, path, query)
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
