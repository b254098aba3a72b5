# Bunny against the broker under test: ruby scenarios.rb URI PREFIX
# Prints a line a scenario: "ok NAME", or "FAILED NAME" with the reason. Names of queues and exchanges begin with PREFIX.

require "bunny"
require "timeout"

URI_GIVEN, PREFIX = ARGV
WAIT_SECONDS_MAX = 10
OPTIONS = { continuation_timeout: WAIT_SECONDS_MAX * 1000, log_level: :fatal, automatically_recover: false }

def open_connection(**options)
  Bunny.new(URI_GIVEN, **OPTIONS, **options).start
end

def equal(expected, actual)
  raise "expected #{expected.inspect}, got #{actual.inspect}" unless expected == actual
end

# What a thread of Bunny's puts into the queue.
def await(queue)
  Timeout.timeout(WAIT_SECONDS_MAX) { queue.pop }
end

# basic.get of a message that may still be on its way.
def get(queue, **options)
  Timeout.timeout(WAIT_SECONDS_MAX) do
    loop do
      message = queue.pop(**options)
      return message unless message.first.nil?
      sleep 0.005
    end
  end
end

def temporary(channel, **arguments)
  channel.queue("", exclusive: true, arguments: arguments.transform_keys { |key| "x-#{key.to_s.tr("_", "-")}" })
end

SCENARIOS = {
  confirms: lambda do |channel|
    queue = channel.queue("#{PREFIX}.confirms", durable: true)
    channel.confirm_select
    200.times { |n| queue.publish("m#{n}", persistent: true) }
    equal(true, channel.wait_for_confirms)
    equal(200, queue.message_count)
    equal("m0", queue.pop.last)
    equal(199, queue.message_count)
    queue.purge
    equal(0, queue.message_count)
    queue.delete
  end,

  rejected_publishes: lambda do |channel|
    queue = temporary(channel, max_length: 1, overflow: "reject-publish")
    channel.confirm_select
    2.times { queue.publish("x") }
    equal(false, channel.wait_for_confirms)
    equal([2], channel.nacked_set.to_a)
  end,

  consume: lambda do |channel|
    channel.prefetch(5)
    queue = temporary(channel)
    received = Queue.new
    consumer = queue.subscribe(manual_ack: true) do |delivery, properties, body|
      channel.ack(delivery.delivery_tag)
      received << [body, properties.headers]
    end
    300.times { |n| queue.publish("m#{n}", headers: { "n" => n, "flag" => true, "list" => [1, "a"] }) }
    expected = (0...300).map { |n| ["m#{n}", { "n" => n, "flag" => true, "list" => [1, "a"] }] }
    equal(expected, Array.new(300) { await(received) })
    equal(1, queue.consumer_count)
    consumer.cancel
    equal(0, queue.consumer_count)
  end,

  properties: lambda do |channel|
    queue = temporary(channel)
    sent = { content_type: "text/plain", content_encoding: "identity", delivery_mode: 2, priority: 5,
             correlation_id: "c", reply_to: "r", expiration: "60000", message_id: "m", type: "t", user_id: "guest", app_id: "a",
             headers: { "text" => "파발".b, "big" => 2**40, "none" => nil } }
    queue.publish("x", timestamp: 1_700_000_000, **sent)
    received = get(queue)[1]
    sent.each { |name, value| equal(value, received[name]) }
    equal(Time.at(1_700_000_000), received.timestamp)
  end,

  redelivery: lambda do |channel|
    queue = temporary(channel)
    queue.publish("x")
    delivery, = get(queue, manual_ack: true)
    equal(false, delivery.redelivered?)
    channel.nack(delivery.delivery_tag, false, true)
    delivery, = get(queue, manual_ack: true)
    equal(true, delivery.redelivered?)
    channel.ack(delivery.delivery_tag)
  end,

  exchanges: lambda do |channel|
    topic = channel.topic("#{PREFIX}.topic", auto_delete: true)
    headers = channel.headers("#{PREFIX}.headers", auto_delete: true)
    fanout = channel.fanout("#{PREFIX}.fanout", auto_delete: true)
    queue = temporary(channel).bind(topic, routing_key: "a.#").bind(fanout)
    queue.bind(headers, arguments: { "x-match" => "any", "k" => 1, "l" => 1 })
    channel.confirm_select
    topic.publish("topic", routing_key: "a.b.c")
    topic.publish("no topic", routing_key: "b")
    headers.publish("headers", headers: { "k" => 1 })
    headers.publish("no headers", headers: { "k" => 2 })
    fanout.publish("fanout")
    channel.wait_for_confirms
    equal(%w[topic headers fanout], Array.new(queue.message_count) { queue.pop.last })
  end,

  returns: lambda do |channel|
    returned = Queue.new
    exchange = channel.default_exchange
    exchange.on_return { |info, _properties, body| returned << [info.reply_code, info.reply_text, body] }
    exchange.publish("x", routing_key: "#{PREFIX}.nowhere", mandatory: true)
    equal([312, "NO_ROUTE", "x"], await(returned))
  end,

  dead_letters: lambda do |channel|
    dead = temporary(channel)
    work = temporary(channel, dead_letter_exchange: "", dead_letter_routing_key: dead.name, message_ttl: 50)
    work.publish("rejected")
    delivery, = get(work, manual_ack: true)
    channel.reject(delivery.delivery_tag, false)
    work.publish("expired")
    %w[rejected expired].each do |reason|
      _delivery, properties, body = get(dead)
      death = properties.headers["x-death"].first
      equal([reason, reason, work.name, 1], [body, death["reason"], death["queue"], death["count"]])
    end
  end,

  priorities: lambda do |channel|
    queue = temporary(channel, max_priority: 5)
    channel.confirm_select
    [1, 4, 0, 4, 9].each { |priority| queue.publish(priority.to_s, priority: priority) }
    channel.wait_for_confirms
    equal("94410", Array.new(5) { queue.pop.last }.join)
  end,

  transactions: lambda do |channel|
    queue = temporary(channel)
    channel.tx_select
    queue.publish("rolled back")
    channel.tx_rollback
    queue.publish("committed")
    equal(0, queue.message_count)
    channel.tx_commit
    equal(1, queue.message_count)
    delivery, = queue.pop(manual_ack: true)
    channel.ack(delivery.delivery_tag)
    channel.tx_rollback
    channel.nack(delivery.delivery_tag, false, true)
    channel.tx_commit
    delivery, _properties, body = queue.pop(manual_ack: true)
    equal(["committed", true], [body, delivery.redelivered?])
    channel.ack(delivery.delivery_tag)
    channel.tx_commit
    equal(0, queue.message_count)
  end,

  direct_reply_to: lambda do |channel|
    requests = temporary(channel)
    requests.subscribe do |_delivery, properties, body|
      channel.default_exchange.publish(body.upcase, routing_key: properties.reply_to, correlation_id: properties.correlation_id)
    end
    client = channel.connection.create_channel
    answers = Queue.new
    client.queue("amq.rabbitmq.reply-to", no_declare: true).subscribe do |_delivery, properties, body|
      answers << [properties.correlation_id, body]
    end
    20.times do |n|
      client.default_exchange.publish("call #{n}", routing_key: requests.name, correlation_id: n.to_s,
                                                   reply_to: "amq.rabbitmq.reply-to")
    end
    equal(Array.new(20) { |n| [n.to_s, "CALL #{n}"] }, Array.new(20) { await(answers) })
    client.close
  end,

  errors: lambda do |channel|
    connection = channel.connection
    queue = channel.queue("#{PREFIX}.errors", exclusive: true)
    {
      Bunny::NotFound => -> { connection.create_channel.queue("#{PREFIX}.nowhere", passive: true) },
      Bunny::PreconditionFailed => -> { connection.create_channel.queue(queue.name, exclusive: true, arguments: { "x-max-length" => 1 }) },
      Bunny::AccessRefused => -> { connection.create_channel.direct("amq.new") },
      Bunny::ResourceLocked => -> { open_connection.create_channel.queue(queue.name, exclusive: true) },
    }.each do |error, action|
      begin
        action.call
      rescue Bunny::ChannelLevelException => raised
        equal(error, raised.class)
      else
        raise "no #{error}"
      end
    end
  end,

  cancel_notification: lambda do |channel|
    queue = channel.queue("#{PREFIX}.cancelled")
    cancelled = Queue.new
    consumer = Bunny::Consumer.new(channel, queue)
    consumer.on_cancellation { cancelled << true }
    queue.subscribe_with(consumer)
    channel.connection.create_channel.queue_delete(queue.name)
    await(cancelled)
  end,

  large_message: lambda do |channel|
    queue = temporary(channel)
    body = Random.new(1).bytes(8_000_000)
    queue.publish(body)
    equal(true, get(queue).last == body)
  end,

  refused_connections: lambda do |_channel|
    { Bunny::AuthenticationFailureError => { password: "wrong" }, Bunny::NotAllowedError => { vhost: "nowhere" } }
      .each do |error, options|
        settings = AMQ::Settings.parse_amqp_url(URI_GIVEN).merge(OPTIONS, recover_from_connection_close: false, **options)
        begin
          Bunny.new(settings).start
        rescue Bunny::Exception => raised
          equal(error, raised.class)
        else
          raise "no #{error}"
        end
      end
  end,
}

connection = open_connection
SCENARIOS.each do |name, scenario|
  begin
    channel = connection.create_channel
    scenario.call(channel)
    channel.close if channel.open?
    puts "ok #{name}"
  rescue Exception => error # also what is not a StandardError, so that the others run
    puts "FAILED #{name}", error.full_message(highlight: false)
  end
end
connection.close
